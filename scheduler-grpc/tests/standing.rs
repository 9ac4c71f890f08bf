//! How things stand and change, as a client in any language sees it.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use scheduler_core::{
    Config, Outcome, PipelinePath, PipelineSpec, Poll, Report, Scheduler, Submit, memory,
};
use scheduler_grpc::{
    client::connect,
    pb::{
        self, cluster_service_client::ClusterServiceClient,
        pipeline_service_client::PipelineServiceClient, task_service_client::TaskServiceClient,
    },
    server::{Access, Limits, Services},
};
use tokio::{sync::oneshot, task::JoinHandle};
use tonic::{Code, Request, transport::Channel};

const SOON: Duration = Duration::from_secs(10);

struct Served {
    scheduler: Scheduler,
    channel: Channel,
    path: PipelinePath,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

async fn serve(config: Config) -> Served {
    let scheduler = Scheduler::start(config, memory::ports()).await.unwrap();
    let path = scheduler_core::path("acme", "shop", "mail").unwrap();
    let spec = PipelineSpec {
        n_partitions: 2,
        ..PipelineSpec::default()
    };
    scheduler.create_pipeline(&path, spec).await.unwrap();
    let claimed = async {
        while scheduler.stats(&path).await.unwrap().n_absent > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, claimed).await.unwrap();
    let access = Access::TenantRequired;
    let services = Services::new(scheduler.clone(), access, Limits::default()).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let channel = connect(&listener.local_addr().unwrap().to_string()).unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = services.serve(listener, async {
        stopped.await.ok();
    });
    Served {
        scheduler,
        channel,
        path,
        stop,
        serving: tokio::spawn(async { serving.await.unwrap() }),
    }
}

fn by<T>(tenant: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let tenant = tenant.parse().unwrap();
    request.metadata_mut().insert("workload-tenant", tenant);
    request
}

fn names() -> (String, String) {
    ("shop".to_owned(), "mail".to_owned())
}

#[tokio::test]
async fn a_pipeline_is_shown_to_its_tenant_only_and_members_to_all() {
    let Served {
        scheduler,
        channel,
        path,
        stop: _until_the_end,
        ..
    } = serve(Config::default()).await;
    let submit = Submit::new("{}");
    scheduler.submit(&path, submit).await.unwrap();
    let poll = Poll::new("w".try_into().unwrap(), 1);
    scheduler.lease(&path, poll).await.unwrap();
    let mut pipelines = PipelineServiceClient::new(channel.clone());
    let (application, pipeline) = names();
    let ask = pb::PipelineStatsRequest {
        application: application.clone(),
        pipeline: pipeline.clone(),
    };
    let stats = pipelines.stats(by("acme", ask.clone())).await.unwrap();
    let stats = stats.into_inner();
    assert_eq!((stats.accepted, stats.shards, stats.absent), (1, 2, 0));
    assert_eq!(stats.states[0].state(), pb::TaskState::Running);
    assert_eq!(stats.wait.unwrap().count, 1);
    let refused = pipelines.stats(by("other", ask)).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    let ask = pb::ListShardsRequest {
        application: application.clone(),
        pipeline: pipeline.clone(),
    };
    let shards = pipelines.shards(by("acme", ask.clone())).await.unwrap();
    let shards = shards.into_inner().shards;
    let running = shards.iter().filter_map(|shard| shard.seen.as_ref());
    assert_eq!(running.map(|seen| seen.states.len()).sum::<usize>(), 1);
    let refused = pipelines.shards(by("other", ask)).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    let ask = pb::ListWorkersRequest {
        application,
        pipeline,
    };
    let workers = pipelines.workers(by("acme", ask.clone())).await.unwrap();
    let workers = workers.into_inner().workers;
    assert_eq!((workers[0].worker.as_str(), workers[0].leases), ("w", 1));
    let refused = pipelines.workers(by("other", ask)).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    let mut cluster = ClusterServiceClient::new(channel);
    let ask = pb::ListMembersRequest {};
    let members = cluster.list_members(by("other", ask)).await.unwrap();
    let members = members.into_inner().members;
    assert_eq!((members.len(), members[0].ready), (1, true));
    let refused = cluster.list_members(Request::new(ask)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn a_task_is_followed_and_what_was_seen_is_not_shown_again() {
    let Served {
        scheduler,
        channel,
        path,
        stop: _until_the_end,
        ..
    } = serve(Config::default()).await;
    let submitted = scheduler.submit(&path, Submit::new("{}")).await.unwrap();
    let mut tasks = TaskServiceClient::new(channel);
    let ask = |seen: &str| pb::WatchTaskRequest {
        id: submitted.id.to_string(),
        seen: seen.to_owned(),
    };
    let refused = tasks.watch(by("other", ask(""))).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    let mut watch = tasks.watch(by("acme", ask(""))).await.unwrap().into_inner();
    let first = watch.message().await.unwrap().unwrap();
    assert_eq!(first.task.unwrap().state(), pb::TaskState::Available);
    drop(watch);
    let mut watch = tasks
        .watch(by("acme", ask(&first.seen)))
        .await
        .unwrap()
        .into_inner();
    let poll = Poll::new("w".try_into().unwrap(), 1);
    let task = scheduler.lease(&path, poll).await.unwrap().tasks.remove(0);
    let report = Report {
        id: task.id,
        token: task.token,
        outcome: Outcome::Completed { result: "1".into() },
    };
    scheduler.report(&path.tenant, report).await.unwrap();
    let mut last = None;
    while let Some(next) = watch.message().await.unwrap() {
        assert_ne!(next.seen, first.seen);
        last = Some(next);
    }
    let last = last.unwrap();
    assert_eq!(last.task.unwrap().state(), pb::TaskState::Completed);
    let mut watch = tasks
        .watch(by("acme", ask(&last.seen)))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(watch.message().await.unwrap(), None);
}

#[tokio::test]
async fn only_so_many_follow_and_a_shutdown_ends_them() {
    let config = Config {
        watches_max: 2,
        ..Config::default()
    };
    let Served {
        scheduler,
        channel,
        path,
        stop,
        serving,
    } = serve(config).await;
    let submitted = scheduler.submit(&path, Submit::new("{}")).await.unwrap();
    let mut tasks = TaskServiceClient::new(channel.clone());
    let mut pipelines = PipelineServiceClient::new(channel);
    let (application, pipeline) = names();
    let of_task = pb::WatchTaskRequest {
        id: submitted.id.to_string(),
        seen: String::new(),
    };
    let of_pipeline = pb::WatchPipelineRequest {
        application,
        pipeline,
    };
    let task = tasks.watch(by("acme", of_task.clone())).await.unwrap();
    let mut task = task.into_inner();
    let all = pipelines.watch(by("acme", of_pipeline.clone())).await;
    let mut all = all.unwrap().into_inner();
    assert!(all.message().await.unwrap().is_some());
    let refused = tasks.watch(by("acme", of_task)).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let refused = pipelines.watch(by("acme", of_pipeline)).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    stop.send(()).unwrap();
    let ended = async {
        while task.message().await.unwrap().is_some() {}
        while all.message().await.unwrap().is_some() {}
        serving.await.unwrap();
    };
    tokio::time::timeout(SOON, ended).await.unwrap();
    assert_eq!(scheduler.n_watches(), 0);
}
