//! A worker's stream over a real scheduler with ports in memory.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{sync::Arc, time::Duration};

use scheduler_core::{
    Config, Error, FrontPorts, Heartbeat, Held, LeaseLost, LeaseToken, LeasedTask, Outcome,
    PipelinePath, PipelineSpec, Poll, Report, Scheduler, StateName, Submit, TaskId, TaskOptions,
    memory,
};
use scheduler_grpc::{
    client::{Client, MemberClients, Work, WorkEvent, connect},
    pb::{self, work_request::Message as Said, worker_service_client::WorkerServiceClient},
    server::{Access, Limits, Services},
    status::from_status,
};
use tokio::{sync::oneshot, task::JoinHandle, time::timeout};
use tonic::transport::Channel;

const SOON: Duration = Duration::from_secs(10);

struct Served {
    channel: Channel,
    client: Client,
    path: PipelinePath,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

async fn serve_with(config: Config, limits: Limits) -> Served {
    let scheduler = Scheduler::start(config, memory::ports()).await.unwrap();
    serve_on(scheduler, limits).await
}

async fn serve_on(scheduler: Scheduler, limits: Limits) -> Served {
    let services = Services::new(scheduler, Access::Open, limits).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let channel = connect(&listener.local_addr().unwrap().to_string()).unwrap();
    let path = scheduler_core::path("default", "shop", "mail").unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = services.serve(listener, async {
        // A test that does not keep the other end wants no shutdown.
        if stopped.await.is_err() {
            std::future::pending::<()>().await;
        }
    });
    let served = Served {
        client: Client::new(channel.clone(), path.tenant.clone()),
        channel,
        path,
        stop,
        serving: tokio::spawn(async { serving.await.unwrap() }),
    };
    let spec = PipelineSpec {
        steps: [].into(),
        defaults: TaskOptions::default(),
        n_partitions: 2,
        ..PipelineSpec::default()
    };
    let created = served.client.create_pipeline(&served.path, &spec);
    created.await.unwrap();
    served
}

async fn serve() -> Served {
    serve_with(Config::default(), Limits::default()).await
}

impl Served {
    async fn submit(&self, data: &'static str) -> TaskId {
        let submitted = self.client.submit(&self.path, Submit::new(data)).await;
        submitted.unwrap().id
    }

    async fn work(&self, hello: Poll) -> Work {
        let opened = self.client.work(&self.path, &hello).await;
        opened.unwrap().expect("the server knows streams")
    }

    /// How a stream is refused that begins with this.
    async fn refusal(&self, said: Vec<Said>) -> Error {
        let said = said.into_iter().map(|message| pb::WorkRequest {
            number: 0,
            message: Some(message),
        });
        // The stream stays open until the server has ended it.
        let said = futures::stream::iter(said.collect::<Vec<_>>());
        let said = futures::StreamExt::chain(said, futures::stream::pending());
        let mut client = WorkerServiceClient::new(self.channel.clone());
        let refused = async {
            let mut answers = client.work(said).await?.into_inner();
            while answers.message().await?.is_some() {}
            Ok(())
        };
        let refused: Result<(), tonic::Status> = timeout(SOON, refused).await.unwrap();
        from_status(&refused.unwrap_err())
    }

    fn hello(&self, credit: usize) -> pb::WorkHello {
        (&self.path, &poll(credit)).into()
    }
}

fn poll(credit: usize) -> Poll {
    Poll::new("worker-1".try_into().unwrap(), credit)
}

/// Past what is said when there is nothing to say.
async fn next(work: &mut Work) -> Option<WorkEvent> {
    loop {
        let event = timeout(SOON, work.events.next()).await.expect("in time");
        match event.unwrap() {
            Some(WorkEvent::Idle) => {}
            event => return event,
        }
    }
}

async fn tasks(work: &mut Work) -> (u64, Vec<LeasedTask>) {
    match next(work).await {
        Some(WorkEvent::Tasks(number, tasks)) => (number, tasks),
        event => panic!("{event:?} in place of tasks"),
    }
}

fn report(task: &LeasedTask) -> Report {
    Report {
        id: task.id,
        token: task.token,
        outcome: Outcome::Completed { result: "1".into() },
    }
}

#[tokio::test]
async fn a_task_goes_all_the_way_over_a_stream() {
    let served = serve().await;
    let mut work = served.work(poll(1)).await;
    let id = served.submit(r#"{"to":"you"}"#).await;
    let (number, leased) = tasks(&mut work).await;
    assert_eq!((number, leased.len(), leased[0].id), (1, 1, id));
    let heartbeat = Heartbeat {
        id,
        token: leased[0].token,
        from_handler: true,
        progress: Some("0.5".into()),
    };
    work.sender.heartbeat(7, vec![heartbeat]).await.unwrap();
    let renewed = next(&mut work).await;
    assert!(
        matches!(&renewed, Some(WorkEvent::Renewed(7, answers)) if *answers == [Ok(Config::default().lease)]),
        "{renewed:?}"
    );
    let stale = Report {
        token: LeaseToken::from_u64(99),
        ..report(&leased[0])
    };
    let reports = vec![report(&leased[0]), stale];
    work.sender.report(8, reports).await.unwrap();
    let reported = next(&mut work).await;
    assert!(
        matches!(&reported, Some(WorkEvent::Reported(8, answers)) if answers[0] == Ok(()) && answers[1].is_err()),
        "{reported:?}"
    );
    let ended = served.client.wait(id, SOON).await.unwrap();
    assert_eq!(ended.state, StateName::Completed);
}

#[tokio::test]
async fn credit_bounds_slots_and_bytes_and_is_said_anew() {
    let served = serve().await;
    for _ in 0..6 {
        served.submit(r#"{"n":1}"#).await;
    }
    let mut work = served.work(poll(0)).await;
    // Nothing comes without credit: what comes next is of the credit.
    work.sender.credit(0, 2, 4096).await.unwrap();
    let (number, batch) = tasks(&mut work).await;
    assert_eq!((number, batch.len()), (1, 2));
    // One that crossed with the batch asks for nothing.
    work.sender.credit(0, 3, 4096).await.unwrap();
    work.sender.heartbeat(1, Vec::new()).await.unwrap();
    let renewed = next(&mut work).await;
    assert!(
        matches!(renewed, Some(WorkEvent::Renewed(1, _))),
        "{renewed:?}"
    );
    // Fewer bytes than one task has are one task.
    work.sender.credit(1, 3, 1).await.unwrap();
    let (number, batch) = tasks(&mut work).await;
    assert_eq!((number, batch.len()), (2, 1));
    work.sender.credit(2, 9, 0).await.unwrap();
    let (number, batch) = tasks(&mut work).await;
    assert_eq!((number, batch.len()), (3, 3));
}

#[tokio::test]
async fn a_credit_in_place_of_another_counts_at_once() {
    let served = serve().await;
    let mut work = served.work(poll(5)).await;
    work.sender.credit(0, 0, 0).await.unwrap();
    work.sender.heartbeat(1, Vec::new()).await.unwrap();
    assert!(matches!(
        next(&mut work).await,
        Some(WorkEvent::Renewed(1, _))
    ));
    // The first one gets nothing although it asked first: it has taken its credit back.
    let id = served.submit("{}").await;
    let mut other = served.work(poll(1)).await;
    assert_eq!(tasks(&mut other).await.1[0].id, id);
}

#[tokio::test]
async fn lost_leases_come_over_the_stream_of_the_hello_and_of_later_tasks() {
    let served = serve().await;
    let (first, second) = (served.submit("{}").await, served.submit("{}").await);
    let mut work = served.work(poll(1)).await;
    let (_, batch) = tasks(&mut work).await;
    let task = batch[0].clone();
    // The connection is lost, and the worker goes on with what it holds on another.
    drop(work);
    let held = Held::from(&task);
    let hello = Poll {
        held: vec![held],
        ..poll(1)
    };
    let mut work = served.work(hello).await;
    let (number, batch) = tasks(&mut work).await;
    work.sender.credit(number, 0, 0).await.unwrap();
    let other = Held::from(&batch[0]);
    assert_eq!(
        [held.id, other.id].iter().max(),
        [first, second].iter().max()
    );
    for held in [held, other] {
        served.client.cancel(held.id).await.unwrap();
        let lost = next(&mut work).await;
        assert!(
            matches!(&lost, Some(WorkEvent::Lost(lost)) if *lost == [(held, LeaseLost::Cancelled)]),
            "{lost:?}"
        );
    }
}

#[tokio::test]
async fn who_leaves_gives_back_what_it_has_not_seen() {
    let served = serve().await;
    let (first, second) = (served.submit("{}").await, served.submit("{}").await);
    let mut work = served.work(poll(1)).await;
    let (number, seen) = tasks(&mut work).await;
    work.sender.credit(number, 1, 0).await.unwrap();
    let (_, unseen) = tasks(&mut work).await;
    let Work { sender, mut events } = work;
    drop(sender);
    // In good order.
    assert!(matches!(timeout(SOON, events.next()).await, Ok(Ok(None))));
    let mut other = served.work(poll(2)).await;
    let (_, batch) = tasks(&mut other).await;
    assert_eq!(
        (batch.len(), batch[0].id, batch[0].attempt),
        (1, unseen[0].id, 1)
    );
    assert!([first, second].contains(&seen[0].id));
    // What it has seen is its own still.
    let reported = served.client.report_batch(vec![report(&seen[0])]).await;
    assert_eq!(reported.unwrap(), [Ok(())]);
}

#[tokio::test]
async fn an_offer_on_a_stream_that_broke_costs_no_attempt() {
    let config = Config {
        offer: Duration::from_millis(300),
        ..Config::default()
    };
    let served = serve_with(config, Limits::default()).await;
    let id = served.submit("{}").await;
    let hello = Poll {
        offers: true,
        ..poll(1)
    };
    let mut work = served.work(hello).await;
    tasks(&mut work).await;
    // Only the answers are given up: the worker has not left in good order.
    let Work { sender, events } = work;
    drop(events);
    let mut other = served.work(poll(1)).await;
    let (_, batch) = tasks(&mut other).await;
    assert_eq!((batch[0].id, batch[0].attempt), (id, 1));
    drop(sender);
}

#[tokio::test]
async fn a_bad_hello_is_refused_by_the_field() {
    let served = serve().await;
    let good = served.hello(1);
    let held = pb::HeldLease {
        id: "no id".into(),
        lease_token: 1,
    };
    let mut many = good.clone();
    many.held = vec![held.clone(); 4_097];
    let mut unreadable = good.clone();
    unreadable.held = vec![held];
    let mut nameless = good.clone();
    nameless.worker = String::new();
    let mut greedy = good.clone();
    greedy.credit = Some(pb::WorkCredit {
        tasks: 4_097,
        ..Default::default()
    });
    let mut labelled = good.clone();
    labelled.labels = vec![" ".into()];
    let mut seen = good.clone();
    seen.credit = Some(pb::WorkCredit {
        seen: 1,
        ..Default::default()
    });
    for (hello, field) in [
        (many, "hello.held"),
        (unreadable, "hello.held"),
        (nameless, "hello.worker"),
        (greedy, "hello.credit.tasks"),
        (labelled, "hello.labels"),
        (seen, "hello.credit.seen"),
    ] {
        let refused = served.refusal(vec![Said::Hello(hello)]).await;
        assert!(
            matches!(&refused, Error::Invalid(fault) if fault.field.starts_with(field)),
            "{field}: {refused:?}"
        );
    }
    let credit = served
        .refusal(vec![Said::Credit(pb::WorkCredit::default())])
        .await;
    assert!(matches!(credit, Error::Invalid(fault) if fault.field == "hello"));
    let mut elsewhere = good;
    elsewhere.pipeline = "other".into();
    let missing = served.refusal(vec![Said::Hello(elsewhere)]).await;
    assert!(matches!(missing, Error::NotFound { what, .. } if what == "pipeline"));
}

#[tokio::test]
async fn what_breaks_a_rule_later_ends_the_stream_by_the_field() {
    let served = serve().await;
    let hello = || Said::Hello(served.hello(0));
    let reports = vec![pb::TaskReport::default(); 1_001];
    let heartbeats = vec![pb::TaskHeartbeat::default(); 1_001];
    let credit = |seen, tasks| {
        Said::Credit(pb::WorkCredit {
            seen,
            tasks,
            bytes: 0,
        })
    };
    for (said, field) in [
        (
            Said::Report(pb::ReportRequest { reports }),
            "report.reports",
        ),
        (
            Said::Heartbeat(pb::HeartbeatRequest { heartbeats }),
            "heartbeat.heartbeats",
        ),
        (credit(0, 4_097), "credit.tasks"),
        (credit(1, 1), "credit.seen"),
        (hello(), "hello"),
    ] {
        let refused = served.refusal(vec![hello(), said]).await;
        assert!(
            matches!(&refused, Error::Invalid(fault) if fault.field == field),
            "{field}: {refused:?}"
        );
    }
}

#[tokio::test]
async fn a_shutdown_tells_workers_to_go_and_answers_them_until_then() {
    let served = serve().await;
    let id = served.submit("{}").await;
    let mut work = served.work(poll(1)).await;
    let (number, batch) = tasks(&mut work).await;
    work.sender.credit(number, 1, 0).await.unwrap();
    let Served {
        stop,
        serving,
        client,
        path,
        channel,
    } = served;
    stop.send(()).unwrap();
    assert!(matches!(next(&mut work).await, Some(WorkEvent::GoingAway)));
    work.sender
        .report(1, vec![report(&batch[0])])
        .await
        .unwrap();
    let reported = next(&mut work).await;
    assert!(
        matches!(&reported, Some(WorkEvent::Reported(1, answers)) if *answers == [Ok(())]),
        "{reported:?} of {id}"
    );
    let refused = client.work(&path, &poll(1)).await;
    assert!(
        matches!(refused, Err(Error::Unavailable { .. })),
        "{refused:?}"
    );
    // With its worker gone, nothing keeps the server.
    let Work { sender, mut events } = work;
    drop((sender, client, channel));
    assert!(matches!(events.next().await, Ok(None)));
    drop(events);
    timeout(Duration::from_secs(4), serving)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_worker_that_does_not_go_is_let_down_before_the_grace_is_over() {
    let served = serve().await;
    let mut work = served.work(poll(1)).await;
    served.stop.send(()).unwrap();
    assert!(matches!(next(&mut work).await, Some(WorkEvent::GoingAway)));
    let ended = timeout(SOON, work.events.next()).await.unwrap();
    assert!(matches!(ended, Err(Error::Unavailable { .. })), "{ended:?}");
}

#[tokio::test]
async fn a_stream_with_nothing_to_say_says_so_and_an_old_one_is_told_to_go() {
    let limits = Limits {
        silence_max: Duration::from_millis(50),
        connection_age_max: Some(Duration::from_secs(1)),
        ..Limits::default()
    };
    let served = serve_with(Config::default(), limits).await;
    let mut work = served.work(poll(0)).await;
    let mut n_idle = 0;
    loop {
        match timeout(SOON, work.events.next()).await.unwrap().unwrap() {
            Some(WorkEvent::Idle) => n_idle += 1,
            event => {
                assert!(matches!(event, Some(WorkEvent::GoingAway)), "{event:?}");
                break;
            }
        }
    }
    assert!(n_idle > 0);
}

#[tokio::test]
async fn a_stream_at_a_process_without_a_member_gets_the_tasks_of_members() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = Config {
        address: listener.local_addr().unwrap().to_string(),
        ..Config::default()
    };
    let ports = memory::ports();
    let front_ports = FrontPorts::from(&ports);
    let peers = || Arc::new(MemberClients::new());
    let member = Scheduler::join(config, ports, peers()).await.unwrap();
    let services = Services::new(member, Access::Open, Limits::default()).unwrap();
    let serving = services.for_peers();
    tokio::spawn(serving.serve(listener, std::future::pending()));
    let front = Scheduler::front(Config::default(), front_ports, peers()).await;
    let served = serve_on(front.unwrap(), Limits::default()).await;
    let mut work = served.work(poll(1)).await;
    let id = served.submit("{}").await;
    let (number, batch) = tasks(&mut work).await;
    assert_eq!(batch[0].id, id);
    work.sender.credit(number, 0, 0).await.unwrap();
    let task = served.client.cancel(id).await.unwrap();
    assert_eq!(task.state, StateName::Cancelled);
    let lost = next(&mut work).await;
    let expected = [(Held::from(&batch[0]), LeaseLost::Cancelled)];
    assert!(
        matches!(&lost, Some(WorkEvent::Lost(lost)) if *lost == expected),
        "{lost:?}"
    );
}
