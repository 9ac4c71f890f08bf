//! A process without a member asks one over the wire.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{sync::Arc, time::Duration};

use scheduler_core::{
    CancelFilter, CancelMany, Config, Deleted, Error, Failure, FrontPorts, Heartbeat, Held, Leased,
    ListTasks, Outcome, PipelineEvent, PipelinePath, PipelineSpec, Poll, Report, Scheduler,
    StateName, Submit, TaskOptions, memory,
};
use scheduler_grpc::{
    client::MemberClients,
    server::{Access, Limits, Services},
};
use tokio::{net::TcpListener, sync::oneshot};

const SOON: Duration = Duration::from_secs(10);

struct Processes {
    member: Scheduler,
    front: Scheduler,
    path: PipelinePath,
    stop: oneshot::Sender<()>,
    serving: tokio::task::JoinHandle<()>,
}

async fn start() -> Processes {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = Config {
        address: listener.local_addr().unwrap().to_string(),
        ..Config::default()
    };
    let ports = memory::ports();
    let front_ports = FrontPorts::from(&ports);
    let peers = || Arc::new(MemberClients::new());
    let member = Scheduler::join(config, ports, peers()).await.unwrap();
    let front = Scheduler::front(Config::default(), front_ports, peers()).await;
    let (front, path) = (
        front.unwrap(),
        scheduler_core::path("acme", "shop", "mail").unwrap(),
    );
    let spec = PipelineSpec {
        steps: [].into(),
        defaults: TaskOptions::default(),
        n_partitions: 4,
        ..PipelineSpec::default()
    };
    front.create_pipeline(&path, spec).await.unwrap();
    let services = Services::new(member.clone(), Access::Open, Limits::default()).unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = services.for_peers().serve(listener, async {
        stopped.await.ok();
    });
    let processes = Processes {
        member,
        front,
        path,
        stop,
        serving: tokio::spawn(async { serving.await.unwrap() }),
    };
    let claimed = async {
        while processes.member.pipeline(&processes.path).await.is_err()
            || processes.member.ready().is_err()
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, claimed).await.unwrap();
    processes
}

fn with_key(key: &str) -> Submit {
    let mut submit = Submit::new("{}");
    submit.options.idempotency_key = Some(key.try_into().unwrap());
    submit
}

#[tokio::test]
async fn keys_looks_lists_waits_and_cancels_go_to_the_member() {
    let Processes {
        member,
        front,
        path,
        stop: _until_the_end,
        ..
    } = start().await;
    let tenant = &path.tenant;
    let first = front.submit(&path, with_key("k")).await.unwrap();
    let again = front.submit(&path, with_key("k")).await.unwrap();
    assert_eq!((again.id, again.repeated), (first.id, true));
    let other = front.submit(&path, with_key("other")).await.unwrap();
    let seen = front.get(tenant, first.id).await.unwrap();
    assert_eq!(seen.state, StateName::Available);
    let page = front.list(&path, ListTasks::default()).await.unwrap();
    assert_eq!((page.tasks.len(), page.backlog), (2, 0));
    let cancelled = front.cancel(tenant, other.id).await.unwrap();
    assert_eq!(cancelled.state, StateName::Cancelled);
    let mut wish = CancelMany {
        filter: CancelFilter {
            metadata: [("of".to_owned(), "me".to_owned())].into(),
            ..CancelFilter::default()
        },
        ..CancelMany::default()
    };
    let mut submit = Submit::new("{}");
    submit.options.metadata = wish.filter.metadata.clone();
    let mine = front.submit(&path, submit).await.unwrap();
    loop {
        let bulk = front.cancel_many(&path, wish.clone()).await.unwrap();
        wish.id = Some(bulk.id);
        if bulk.progress.is_over {
            assert_eq!(bulk.progress.n_cancelled, 1);
            break;
        }
    }
    let seen = front.get(tenant, mine.id).await.unwrap();
    assert_eq!(seen.state, StateName::Cancelled);
    let waiting = tokio::spawn({
        let (front, tenant) = (front.clone(), tenant.clone());
        async move { front.wait(&tenant, first.id, SOON).await.unwrap() }
    });
    let poll = Poll::new("w".try_into().unwrap(), 1);
    let task = member.lease(&path, poll).await.unwrap().tasks.remove(0);
    let report = Report {
        id: task.id,
        token: task.token,
        outcome: Outcome::Completed { result: "1".into() },
    };
    member.report(tenant, report).await.unwrap();
    let ended = waiting.await.unwrap();
    assert_eq!(ended.state, StateName::Completed);
    // Deleting counts first, at the member.
    let deleted = front.delete_pipeline(&path).await;
    assert_eq!(deleted, Ok(Deleted::Done));
}

#[tokio::test]
async fn workers_of_a_front_are_served_by_the_member() {
    let Processes {
        front,
        path,
        stop: _until_the_end,
        ..
    } = start().await;
    let tenant = &path.tenant;
    let poll = |credit, held| Poll {
        held,
        ..Poll::new("w".try_into().unwrap(), credit)
    };
    let idle = tokio::spawn({
        let (front, path) = (front.clone(), path.clone());
        async move { front.lease(&path, poll(1, vec![])).await.unwrap() }
    });
    let mut submit = Submit::new(r#"{"n":1}"#);
    submit.options.priority = Some(7.try_into().unwrap());
    let first = front.submit(&path, submit).await.unwrap().id;
    let second = front.submit(&path, with_key("k")).await.unwrap().id;
    let mut tasks = idle.await.unwrap().tasks;
    while tasks.len() < 2 {
        tasks.extend(front.lease(&path, poll(2, vec![])).await.unwrap().tasks);
    }
    tasks.sort_unstable_by_key(|task| task.id != first);
    assert_eq!((tasks[0].id, tasks[1].id), (first, second));
    assert_eq!(tasks[0].data, r#"{"n":1}"#);
    let held: Vec<_> = tasks
        .iter()
        .map(|task| Held {
            id: task.id,
            token: task.token,
        })
        .collect();
    let beats = held.iter().map(|held| Heartbeat {
        id: held.id,
        token: held.token,
        from_handler: true,
        progress: Some("0.5".into()),
    });
    let renewed = front.heartbeat(tenant, beats.collect()).await;
    assert_eq!(renewed, [Ok(tasks[0].lease), Ok(tasks[1].lease)]);
    // A cancel is told to the poll that named the lease, and the other one can be reported.
    let listening = front.lease(&path, poll(0, held.clone()));
    let cancel = async {
        let seen = front.get(tenant, first).await.unwrap();
        assert_eq!(seen.progress.as_deref(), Some(&b"0.5"[..]));
        front.cancel(tenant, first).await.unwrap()
    };
    let (told, _) = tokio::join!(listening, cancel);
    let lost = told.unwrap().lost;
    assert_eq!(lost.len(), 1);
    assert_eq!(lost[0].0, held[0]);
    let reports = held.iter().map(|held| Report {
        id: held.id,
        token: held.token,
        outcome: Outcome::Completed { result: "1".into() },
    });
    let reported = front.report_batch(tenant, reports.collect()).await;
    let lost = matches!(reported[0], Err(Error::LeaseLost(_)));
    assert!(lost && reported[1] == Ok(()), "{reported:?}");
}

#[tokio::test]
async fn a_member_that_is_away_is_told() {
    let Processes {
        member,
        front,
        path,
        stop,
        serving,
    } = start().await;
    let poll = Poll {
        wait: Duration::from_millis(100),
        ..Poll::new("w".try_into().unwrap(), 1)
    };
    front.submit(&path, with_key("k")).await.unwrap();
    let task = front.lease(&path, poll.clone()).await.unwrap().tasks;
    stop.send(()).unwrap();
    serving.await.unwrap();
    member.shutdown().await;
    let refused = front.submit(&path, with_key("k")).await;
    assert!(
        matches!(refused, Err(Error::Unavailable { .. })),
        "{refused:?}"
    );
    let held = front.lease(&path, poll).await;
    assert_eq!(held, Ok(Leased::default()), "it waits in vain");
    let report = Report {
        id: task[0].id,
        token: task[0].token,
        outcome: Outcome::Interrupted,
    };
    let refused = front.report(&path.tenant, report).await;
    assert!(
        matches!(refused, Err(Error::Unavailable { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn what_a_member_knows_of_shards_and_workers_reaches_a_front() {
    let Processes {
        member,
        front,
        path,
        stop: _until_the_end,
        ..
    } = start().await;
    let tenant = &path.tenant;
    for _ in 0..3 {
        front.submit(&path, with_key("k")).await.unwrap();
    }
    let held = member
        .lease(&path, Poll::new("w".try_into().unwrap(), 1))
        .await
        .unwrap();
    let failure = Failure {
        code: "http".try_into().unwrap(),
        message: "GET /orders/17: 503".to_owned(),
        retryable: true,
        detail: "".into(),
    };
    let report = Report {
        id: held.tasks[0].id,
        token: held.tasks[0].token,
        outcome: Outcome::Failed(failure),
    };
    front.report(tenant, report).await.unwrap();
    let idle = tokio::spawn({
        let (member, path) = (member.clone(), path.clone());
        let poll = Poll {
            labels: ["gpu".try_into().unwrap()].into(),
            ..Poll::new("idle".try_into().unwrap(), 0)
        };
        async move { member.lease(&path, poll).await }
    });
    let both = async {
        loop {
            // As its process sees itself, and over the wire.
            let (here, there) = (member.stats(&path).await, front.stats(&path).await);
            let here = here.unwrap();
            assert_eq!(here.totals.n_failed, 1);
            let (one, other) = (member.shards(&path).await, front.shards(&path).await);
            assert!(one.unwrap().iter().all(|shard| shard.seen.is_some()));
            let (ours, theirs) = (member.workers(&path).await, front.workers(&path).await);
            let ours = ours.unwrap();
            let is_whole = ours.list.len() == 2 && ours.list[0].is_polling;
            // It may have changed between the two looks.
            let other = other.unwrap();
            let one = member.shards(&path).await.unwrap();
            if is_whole && Ok(here) == there && Ok(ours) == theirs && one == other {
                return other;
            }
            tokio::task::yield_now().await;
        }
    };
    let shards = tokio::time::timeout(SOON, both).await.unwrap();
    assert_eq!(shards.len(), 4);
    let members = front.members().await.unwrap();
    let state = members[0].state.as_ref().unwrap();
    assert_eq!((members.len(), &*members[0].address), (1, &*state.address));
    let same = member.members().await.unwrap();
    let same = same[0].state.as_ref().unwrap();
    assert_eq!(same.started_at, state.started_at);
    assert_eq!((state.load.n_shards, &state.unready), (4, &None));
    idle.abort();
}

#[tokio::test]
async fn a_task_and_a_pipeline_are_followed_from_a_front() {
    let Processes {
        member,
        front,
        path,
        stop,
        serving,
    } = start().await;
    let tenant = &path.tenant;
    let mut pipeline = front.watch_pipeline(&path).unwrap();
    let first = pipeline.next().await.unwrap();
    assert!(matches!(first, Some(PipelineEvent::Stats(_))));
    let id = front.submit(&path, with_key("k")).await.unwrap().id;
    let mut watch = front.watch_task(tenant, id, None).await.unwrap();
    let (mut states, mut told) = (Vec::new(), Vec::new());
    let follow = async {
        while let Some(view) = watch.next().await.unwrap() {
            states.push(view.state);
            if states.len() > 1 {
                continue;
            }
            let poll = Poll::new("w".try_into().unwrap(), 1);
            let task = member.lease(&path, poll).await.unwrap().tasks.remove(0);
            let report = Report {
                id: task.id,
                token: task.token,
                outcome: Outcome::Completed { result: "1".into() },
            };
            member.report(tenant, report).await.unwrap();
        }
        while told.len() < 3 {
            if let Some(PipelineEvent::Changes(changes)) = pipeline.next().await.unwrap() {
                assert_eq!(changes.n_missed, 0);
                told.extend(changes.list.iter().map(|change| change.state));
            }
        }
    };
    tokio::time::timeout(SOON, follow).await.unwrap();
    assert_eq!(states.first(), Some(&StateName::Available));
    assert_eq!(states.last(), Some(&StateName::Completed));
    let life = [
        StateName::Available,
        StateName::Running,
        StateName::Completed,
    ];
    assert_eq!(told, life);
    stop.send(()).unwrap();
    serving.await.unwrap();
}
