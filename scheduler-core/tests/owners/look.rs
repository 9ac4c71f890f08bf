//! What members know of shards, workers and themselves, put together.

use scheduler_core::{
    Error, Failure, Outcome, PipelineStats, Poll, Report, Scheduler, StateName, Submit,
};

use crate::cluster::{Cluster, SOON};

async fn until<T>(mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let found = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, found).await.unwrap()
}

async fn stats_when(
    handle: &Scheduler,
    cluster: &Cluster,
    fits: impl Fn(&PipelineStats) -> bool,
) -> PipelineStats {
    until(async || {
        let stats = handle.stats(&cluster.path).await.unwrap();
        fits(&stats).then_some(stats)
    })
    .await
}

fn n_in(stats: &PipelineStats, state: StateName) -> u64 {
    stats.states.get(&state).copied().unwrap_or(0)
}

#[tokio::test]
async fn everybody_sees_the_same_of_all_shards() {
    let cluster = Cluster::start().await;
    let anyone = [
        cluster.front.clone(),
        cluster.member("even"),
        cluster.member("odd"),
    ];
    for n in 0..64 {
        let submit = Submit::new(format!(r#"{{"n":{n}}}"#));
        cluster.front.submit(&cluster.path, submit).await.unwrap();
    }
    for handle in &anyone {
        let all_read = |stats: &PipelineStats| n_in(stats, StateName::Available) == 64;
        let stats = stats_when(handle, &cluster, all_read).await;
        assert_eq!((stats.backlog, stats.n_accepted), (0, 64));
        assert_eq!((stats.n_shards, stats.n_absent), (32, 0));
        assert_eq!(stats.waits.values().sum::<u64>(), 64);
        let shards = handle.shards(&cluster.path).await.unwrap();
        let owners = shards.iter().filter_map(|shard| shard.owner.as_deref());
        assert_eq!(owners.clone().count(), 32);
        assert!(owners.clone().any(|owner| owner == "even"));
        assert!(owners.clone().any(|owner| owner == "odd"));
        assert!(shards.iter().all(|shard| shard.backlog() == Some(0)));
    }
    cluster.work(64).await;
    let all_done = |stats: &PipelineStats| stats.totals.n_completed == 64;
    let stats = stats_when(&cluster.front, &cluster, all_done).await;
    assert_eq!((stats.waited.n(), stats.ran.n()), (64, 64));
    assert!(stats.states.values().all(|n| *n == 0), "{stats:?}");
}

#[tokio::test]
async fn failures_are_counted_by_their_cause_over_all_shards() {
    let cluster = Cluster::start().await;
    let member = cluster.member("even");
    for _ in 0..16 {
        let submit = Submit::new("{}");
        cluster.front.submit(&cluster.path, submit).await.unwrap();
    }
    let mut n_failed = 0;
    while n_failed < 16 {
        let poll = Poll::new("worker".try_into().unwrap(), 16);
        for task in member.lease(&cluster.path, poll).await.unwrap().tasks {
            n_failed += 1;
            let failure = Failure {
                code: "http".try_into().unwrap(),
                message: format!("GET /orders/{n_failed}: 503"),
                retryable: false,
                detail: "".into(),
            };
            let report = Report {
                id: task.id,
                token: task.token,
                outcome: Outcome::Failed(failure),
            };
            let reported = member.report(&cluster.path.tenant, report).await;
            reported.unwrap();
        }
    }
    let stats = cluster.front.stats(&cluster.path).await.unwrap();
    assert_eq!((stats.totals.n_failed, stats.totals.n_discarded), (16, 16));
    assert_eq!(stats.failures.len(), 1);
    assert_eq!(stats.failures[0].n, 16);
    assert!(stats.failures[0].message.starts_with("GET /orders/"));
}

#[tokio::test]
async fn a_worker_is_seen_by_everybody_wherever_it_is_connected_and_whatever_it_holds() {
    let cluster = Cluster::start().await;
    for _ in 0..32 {
        let submit = Submit::new("{}");
        cluster.front.submit(&cluster.path, submit).await.unwrap();
    }
    // All from one member, of tasks of both.
    let member = cluster.member("odd");
    let mut n_held = 0;
    while n_held < 32 {
        let poll = Poll::new("busy".try_into().unwrap(), 256);
        n_held += member.lease(&cluster.path, poll).await.unwrap().tasks.len();
    }
    let idle = Poll {
        labels: ["gpu".try_into().unwrap()].into(),
        ..Poll::new("idle".try_into().unwrap(), 7)
    };
    let path = cluster.path.clone();
    let polling = tokio::spawn(async move { member.lease(&path, idle).await });
    for handle in [&cluster.front, &cluster.member("even")] {
        let workers = until(async || {
            let workers = handle.workers(&cluster.path).await.unwrap();
            let is_whole = workers.list.len() == 2 && workers.list[1].is_polling;
            is_whole.then_some(workers)
        })
        .await;
        assert_eq!((workers.n_more, workers.n_absent), (0, 0));
        let [busy, idle] = &workers.list[..] else {
            panic!("{workers:?}");
        };
        assert_eq!((busy.worker.as_str(), busy.n_leases), ("busy", 32));
        assert_eq!((busy.n_slots, busy.is_polling), (32, false));
        assert_eq!((idle.worker.as_str(), idle.n_leases), ("idle", 0));
        assert_eq!((idle.credit, idle.labels.len()), (Some(7), 1));
        assert_eq!(idle.member.as_deref(), Some("odd"));
    }
    // Another pipeline has nobody.
    let other = scheduler_core::path("other", "app", "mail").unwrap();
    let spec = scheduler_core::PipelineSpec::default();
    cluster.front.create_pipeline(&other, spec).await.unwrap();
    let workers = cluster.front.workers(&other).await.unwrap();
    assert_eq!(workers.list, []);
    polling.abort();
}

#[tokio::test]
async fn a_member_that_is_away_is_told_from_one_that_answers() {
    let cluster = Cluster::start().await;
    let members = cluster.front.members().await.unwrap();
    let told: Vec<_> = members
        .iter()
        .map(|member| {
            let state = member.state.as_ref().unwrap();
            (
                &*member.address,
                state.unready.is_none(),
                state.load.n_shards,
            )
        })
        .collect();
    let (even, odd) = (told[0].2, told[1].2);
    assert_eq!(told, [("even", true, even), ("odd", true, odd)]);
    assert_eq!(even + odd, 32);
    let gone = cluster.take("odd");
    gone.shutdown().await;
    for handle in [&cluster.front, &cluster.member("even")] {
        let members = handle.members().await.unwrap();
        assert!(members[0].state.is_ok());
        assert!(matches!(members[1].state, Err(Error::Unavailable { .. })));
        let stats = handle.stats(&cluster.path).await.unwrap();
        assert_eq!((stats.n_shards, stats.n_absent), (32, odd));
        let shards = handle.shards(&cluster.path).await.unwrap();
        let absent = shards.iter().filter(|shard| shard.seen.is_none());
        assert!(
            absent
                .clone()
                .all(|shard| shard.owner.as_deref() == Some("odd"))
        );
        assert_eq!(absent.count(), odd);
        let workers = handle.workers(&cluster.path).await.unwrap();
        assert!(workers.n_absent >= odd, "{workers:?}");
    }
}
