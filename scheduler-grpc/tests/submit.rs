//! Many tasks on one stream.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use futures::{StreamExt as _, stream};
use scheduler_core::{Config, PipelineSpec, Scheduler, memory};
use scheduler_grpc::{
    client::connect,
    pb::{self, submit_result, task_service_client::TaskServiceClient},
    server::{Access, Limits, Services},
};
use tokio::sync::{mpsc, oneshot};
use tonic::{Code, transport::Channel};

const SOON: Duration = Duration::from_secs(30);

async fn serve() -> (Channel, oneshot::Sender<()>) {
    let scheduler = Scheduler::start(Config::default(), memory::ports())
        .await
        .unwrap();
    let path = scheduler_core::path("default", "shop", "mail").unwrap();
    scheduler
        .create_pipeline(&path, PipelineSpec::default())
        .await
        .unwrap();
    let services = Services::new(scheduler, Access::Open, Limits::default()).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let channel = connect(&listener.local_addr().unwrap().to_string()).unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = services.serve(listener, async {
        stopped.await.ok();
    });
    tokio::spawn(async { serving.await.unwrap() });
    (channel, stop)
}

fn task(pipeline: &str, data: &'static str) -> pb::SubmitStreamRequest {
    pb::SubmitStreamRequest {
        application: "shop".to_owned(),
        pipeline: pipeline.to_owned(),
        task: Some(pb::NewTask {
            data: data.into(),
            ..pb::NewTask::default()
        }),
    }
}

fn is_accepted(result: &pb::SubmitResult) -> bool {
    matches!(result.result, Some(submit_result::Result::Submitted(_)))
}

#[tokio::test]
async fn thousands_of_tasks_are_answered_in_order_and_a_bad_one_stops_none() {
    let (channel, _until_the_end) = serve().await;
    let tasks = (0..5_000).map(|n| task("mail", if n % 7 == 0 { "7" } else { "{}" }));
    let mut client = TaskServiceClient::new(channel);
    let results = client.submit_stream(stream::iter(tasks)).await.unwrap();
    let results = results.into_inner().collect::<Vec<_>>();
    let results = tokio::time::timeout(SOON, results).await.unwrap();
    assert_eq!(results.len(), 5_000);
    for (n, result) in results.iter().enumerate() {
        assert_eq!(is_accepted(result.as_ref().unwrap()), n % 7 != 0, "{n}");
    }
}

#[tokio::test]
async fn results_come_while_tasks_still_do_and_a_stream_of_nothing_ends() {
    let (channel, _until_the_end) = serve().await;
    let mut client = TaskServiceClient::new(channel);
    let (to, tasks) = mpsc::channel(1);
    let tasks = stream::unfold(tasks, async |mut tasks| Some((tasks.recv().await?, tasks)));
    to.send(task("mail", "{}")).await.unwrap();
    let results = client.submit_stream(tasks).await.unwrap();
    let mut results = results.into_inner();
    for _ in 0..3 {
        let result = tokio::time::timeout(SOON, results.message()).await.unwrap();
        assert!(is_accepted(&result.unwrap().unwrap()));
        to.send(task("", "{}")).await.unwrap();
    }
    drop(to);
    assert!(is_accepted(&results.message().await.unwrap().unwrap()));
    assert_eq!(results.message().await.unwrap(), None);
    let nothing = client.submit_stream(stream::empty()).await.unwrap();
    assert_eq!(nothing.into_inner().message().await.unwrap(), None);
    let nowhere = stream::iter([task("no", "{}")]);
    let mut refused = client.submit_stream(nowhere).await.unwrap().into_inner();
    let refused = refused.message().await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
}
