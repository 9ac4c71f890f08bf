//! Following tasks and pipelines, from a front and over moves of their shards.

use scheduler_core::{
    Config, Error, Heartbeat, LeasedTask, Outcome, PipelineEvent, PipelineSpec, PipelineWatch,
    Poll, Report, Scheduler, StateName, Submit, TaskView, TaskWatch,
};

use crate::cluster::{Cluster, SOON};

async fn next(watch: &mut TaskWatch) -> Option<TaskView> {
    let next = tokio::time::timeout(SOON, watch.next()).await;
    next.unwrap().unwrap()
}

/// The next view in that state; others may come before.
async fn next_in(watch: &mut TaskWatch, state: StateName) -> TaskView {
    loop {
        let view = next(watch).await.unwrap();
        if view.state == state {
            return view;
        }
    }
}

async fn lease(member: &Scheduler, cluster: &Cluster) -> LeasedTask {
    let poll = Poll::new("worker".try_into().unwrap(), 1);
    let leased = member.lease(&cluster.path, poll).await.unwrap();
    leased.tasks[0].clone()
}

async fn complete(member: &Scheduler, cluster: &Cluster, task: &LeasedTask) {
    let report = Report {
        id: task.id,
        token: task.token,
        outcome: Outcome::Completed { result: "1".into() },
    };
    let reported = member.report(&cluster.path.tenant, report).await;
    reported.unwrap();
}

#[tokio::test]
async fn a_task_is_followed_to_its_end_with_its_progress() {
    let cluster = Cluster::start().await;
    let (front, tenant) = (&cluster.front, &cluster.path.tenant);
    let submitted = front
        .submit(&cluster.path, Submit::new("{}"))
        .await
        .unwrap();
    let mut watch = front.watch_task(tenant, submitted.id, None).await.unwrap();
    assert_eq!(front.n_watches(), 1);
    let first = next(&mut watch).await.unwrap();
    assert_eq!(first.state, StateName::Available);
    let member = cluster.member("even");
    let task = lease(&member, &cluster).await;
    let running = next_in(&mut watch, StateName::Running).await;
    assert_eq!((running.attempt, running.progress), (1, None));
    let beat = Heartbeat {
        id: task.id,
        token: task.token,
        from_handler: true,
        progress: Some(r#"{"step":1}"#.into()),
    };
    let renewed = member.heartbeat(tenant, vec![beat]).await.remove(0);
    renewed.unwrap();
    let running = next(&mut watch).await.unwrap();
    assert_eq!(running.progress.as_deref(), Some(&br#"{"step":1}"#[..]));
    complete(&member, &cluster, &task).await;
    let ended = next(&mut watch).await.unwrap();
    assert_eq!(ended.state, StateName::Completed);
    assert_eq!(next(&mut watch).await, None);
    drop(watch);
    assert_eq!(front.n_watches(), 0);
    // Who has seen the end is not shown it again.
    let seen = Some(ended.digest());
    let mut watch = front.watch_task(tenant, task.id, seen).await.unwrap();
    assert_eq!(next(&mut watch).await, None);
    let mut watch = front.watch_task(tenant, task.id, Some(1)).await.unwrap();
    assert_eq!(next(&mut watch).await, Some(ended));
}

#[tokio::test]
async fn a_task_is_followed_over_a_move_of_its_shard() {
    let cluster = Cluster::start().await;
    let (front, tenant) = (&cluster.front, &cluster.path.tenant);
    let submitted = front
        .submit(&cluster.path, Submit::new("{}"))
        .await
        .unwrap();
    let mut watch = front.watch_task(tenant, submitted.id, None).await.unwrap();
    next_in(&mut watch, StateName::Available).await;
    for address in ["even", "odd"] {
        cluster.take(address).shutdown().await;
    }
    cluster.join("even", 0).await;
    cluster.join("odd", 1).await;
    cluster.owns_shards("even").await;
    cluster.owns_shards("odd").await;
    cluster.work(1).await;
    next_in(&mut watch, StateName::Completed).await;
    assert_eq!(next(&mut watch).await, None);
}

#[tokio::test]
async fn only_so_many_are_followed_at_once_and_only_ones_own() {
    let cluster = Cluster::start().await;
    let config = Config {
        watches_max: 1,
        ..Config::default()
    };
    let front = cluster.other_front(config).await;
    let tenant = &cluster.path.tenant;
    let submitted = front
        .submit(&cluster.path, Submit::new("{}"))
        .await
        .unwrap();
    let foreign = "other".try_into().unwrap();
    let refused = front.watch_task(&foreign, submitted.id, None).await;
    assert!(matches!(refused, Err(Error::NotFound { .. })));
    let watch = front.watch_task(tenant, submitted.id, None).await.unwrap();
    let refused = front.watch_pipeline(&cluster.path).map(drop);
    assert!(
        matches!(refused, Err(Error::Overloaded { .. })),
        "{refused:?}"
    );
    drop(watch);
    front.watch_pipeline(&cluster.path).unwrap();
}

async fn event(watch: &mut PipelineWatch) -> PipelineEvent {
    let next = tokio::time::timeout(SOON, watch.next()).await;
    next.unwrap().unwrap().unwrap()
}

#[tokio::test]
async fn changes_of_a_pipeline_are_told_or_counted_as_missed() {
    let cluster = Cluster::start().await;
    let mut watch = cluster.front.watch_pipeline(&cluster.path).unwrap();
    let PipelineEvent::Stats(stats) = event(&mut watch).await else {
        panic!("how it stands comes first");
    };
    assert_eq!(stats.n_absent, 0);
    // A second reader shares the look, and reads nothing for a while.
    let mut slow = cluster.front.watch_pipeline(&cluster.path).unwrap();
    for _ in 0..300 {
        let submit = Submit::new("{}");
        cluster.front.submit(&cluster.path, submit).await.unwrap();
    }
    cluster.work(300).await;
    // Each became available, ran and ended.
    for reader in [&mut watch, &mut slow] {
        let (mut n_told, mut n_missed, mut n_completed) = (0, 0, 0);
        while n_told + n_missed < 900 {
            match event(reader).await {
                PipelineEvent::Stats(stats) => n_completed = stats.totals.n_completed,
                PipelineEvent::Changes(changes) => {
                    assert!(changes.list.len() <= 500);
                    n_told += changes.list.len() as u64;
                    n_missed += changes.n_missed;
                }
            }
        }
        assert_eq!(n_told + n_missed, 900);
        assert!(n_told > 0);
        assert_eq!(n_completed, 300);
    }
}

#[tokio::test]
async fn who_follows_a_pipeline_learns_that_it_is_deleted() {
    let cluster = Cluster::start().await;
    let path = scheduler_core::path("tenant", "app", "short").unwrap();
    let spec = PipelineSpec::default();
    cluster.front.create_pipeline(&path, spec).await.unwrap();
    let mut watch = cluster.front.watch_pipeline(&path).unwrap();
    let deleted = async {
        while cluster.front.delete_pipeline(&path).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, deleted).await.unwrap();
    let over = async {
        loop {
            if let Err(error) = watch.next().await {
                return error;
            }
        }
    };
    let error = tokio::time::timeout(SOON, over).await.unwrap();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
}
