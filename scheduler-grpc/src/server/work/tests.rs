//! Streams without a connection, so that a test decides what it takes.

use scheduler_core::{Config, PipelineSpec, Scheduler, StateName, Submit, memory};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::{Codec as _, EncodeBody};
use tonic_prost::ProstCodec;

use super::{
    super::{Access, Limits},
    *,
};

const SOON: Duration = Duration::from_secs(5);

struct Rig {
    shared: Arc<Shared>,
    closing: watch::Sender<bool>,
    path: PipelinePath,
}

async fn rig() -> Rig {
    let scheduler = Scheduler::start(Config::default(), memory::ports()).await;
    let scheduler = scheduler.unwrap();
    let path = scheduler_core::path("default", "shop", "mail").unwrap();
    let spec = PipelineSpec::default();
    scheduler.create_pipeline(&path, spec).await.unwrap();
    let (closing, is_closing) = watch::channel(false);
    let shared = Shared {
        scheduler,
        access: Access::Open,
        limits: Limits::default(),
        closing: is_closing,
    };
    Rig {
        shared: Arc::new(shared),
        closing,
        path,
    }
}

fn poll(credit: usize) -> Poll {
    Poll::new("worker-1".try_into().unwrap(), credit)
}

impl Rig {
    /// Opens a stream on which the worker says what comes in.
    async fn open(
        &self,
        said: mpsc::Receiver<Result<pb::WorkRequest, Status>>,
    ) -> Result<Outbound, Status> {
        let mut codec = ProstCodec::<pb::WorkRequest, pb::WorkRequest>::default();
        let said = ReceiverStream::new(said);
        let body = EncodeBody::new_client(codec.encoder(), said, None, None);
        let said = Streaming::new_request(codec.decoder(), body, None, None);
        let opened = open(Arc::clone(&self.shared), Request::new(said)).await;
        opened.map(Response::into_inner)
    }

    /// Opens a stream for one task, and waits until that is lent to it. The worker leaves when the first end is dropped.
    async fn lent(&self) -> (mpsc::Sender<Result<pb::WorkRequest, Status>>, Outbound) {
        let (say, said) = mpsc::channel(4);
        let hello = pb::WorkHello::from((&self.path, &poll(1)));
        let message = Some(Said::Hello(hello));
        let hello = pb::WorkRequest { number: 0, message };
        say.send(Ok(hello)).await.unwrap();
        let outbound = self.open(said).await.unwrap();
        let (scheduler, tenant) = (&self.shared.scheduler, &self.path.tenant);
        let submitted = scheduler.submit(&self.path, Submit::new("{}")).await;
        let id = submitted.unwrap().id;
        let lent = async {
            while scheduler.get(tenant, id).await.unwrap().state != StateName::Running {
                tokio::task::yield_now().await;
            }
        };
        timeout(SOON, lent).await.unwrap();
        (say, outbound)
    }

    /// On which attempt another worker gets the task, if it does in time.
    async fn next(&self, wait: Duration) -> Option<u32> {
        let poll = Poll { wait, ..poll(1) };
        let leased = self.shared.scheduler.lease(&self.path, poll).await;
        leased.unwrap().tasks.first().map(|task| task.attempt)
    }
}

#[tokio::test]
async fn a_batch_that_the_connection_never_took_is_given_back() {
    let rig = rig().await;
    let (_say, outbound) = rig.lent().await;
    drop(outbound);
    assert_eq!(rig.next(SOON).await, Some(1));
}

#[tokio::test]
async fn a_batch_that_is_on_its_way_may_have_arrived() {
    let rig = rig().await;
    let (_say, mut outbound) = rig.lent().await;
    loop {
        let heard = outbound.next().await.unwrap().unwrap();
        if matches!(heard.message, Some(Answer::Tasks(_))) {
            break;
        }
    }
    drop(outbound);
    assert_eq!(rig.next(Duration::from_millis(200)).await, None);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_say_hello_is_refused() {
    let rig = rig().await;
    let (_say, said) = mpsc::channel(1);
    let refused = rig.open(said).await.unwrap_err();
    assert!(refused.message().contains("hello"), "{refused}");
}

#[tokio::test]
async fn a_server_that_stops_opens_no_stream() {
    let rig = rig().await;
    rig.closing.send_replace(true);
    let (_say, said) = mpsc::channel(1);
    let refused = rig.open(said).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable);
}
