//! Redriving many dead letters, with their fault mended and with it still there.
#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use scheduler_core::{
    Config, Error, Failure, Halted, ListTasks, Outcome, PipelinePath, PipelineSpec, Poll, Redrive,
    RedriveMany, Redriving, Report, Scheduler, StateName, Submit, memory,
};

const N: usize = 100_000;

/// Fails what it gets unless it is told how many to complete first.
#[derive(Debug, Default)]
struct Worker {
    n_good: AtomicUsize,
    n_failed: AtomicUsize,
}

impl Worker {
    fn outcome(&self) -> Outcome {
        let take = |n: usize| n.checked_sub(1);
        let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
        if self.n_good.fetch_update(set, fetch, take).is_ok() {
            return Outcome::Completed { result: "1".into() };
        }
        let n = self.n_failed.fetch_add(1, Ordering::Relaxed);
        Outcome::Failed(Failure {
            code: "bug".try_into().unwrap(),
            message: format!("order {n} has no address (after {n} ms)"),
            retryable: false,
            detail: "".into(),
        })
    }

    async fn work(self: Arc<Self>, scheduler: Scheduler, path: PipelinePath) {
        loop {
            let poll = Poll::new("w".try_into().unwrap(), 256);
            let Ok(leased) = scheduler.lease(&path, poll).await else {
                return;
            };
            let report = |task: scheduler_core::LeasedTask| Report {
                id: task.id,
                token: task.token,
                outcome: self.outcome(),
            };
            let reports = leased.tasks.into_iter().map(report).collect();
            for answer in scheduler.report_batch(&path.tenant, reports).await {
                answer.unwrap();
            }
        }
    }
}

/// A pipeline with dead letters, and the worker that made them.
async fn dead_letters(n: usize) -> (Scheduler, PipelinePath, Arc<Worker>) {
    let scheduler = Scheduler::start(Config::default(), memory::ports())
        .await
        .unwrap();
    let path = scheduler_core::path("acme", "app", "pipe").unwrap();
    let spec = PipelineSpec {
        n_partitions: 4,
        ..PipelineSpec::default()
    };
    scheduler.create_pipeline(&path, spec).await.unwrap();
    let worker = Arc::new(Worker::default());
    tokio::spawn(Arc::clone(&worker).work(scheduler.clone(), path.clone()));
    let mut last = Vec::new();
    for _ in (0..n).step_by(1_000) {
        let batch = vec![Submit::new("{}"); n.min(1_000)];
        last = scheduler.submit_batch(&path, batch).await.unwrap();
    }
    for submitted in last {
        let id = submitted.unwrap().id;
        let wait = Duration::from_secs(60);
        let view = scheduler.wait(&path.tenant, id, wait).await.unwrap();
        assert_eq!(view.state, StateName::Discarded);
    }
    worker.n_failed.store(0, Ordering::Relaxed);
    (scheduler, path, worker)
}

async fn all_of(mut redrive: Redrive) -> Redriving {
    while redrive.step().await.unwrap().is_some() {}
    redrive.so_far().clone()
}

async fn n_discarded(scheduler: &Scheduler, path: &PipelinePath) -> usize {
    let mut query = ListTasks {
        states: vec![StateName::Discarded],
        limit: 1_000,
        ..ListTasks::default()
    };
    let mut n = 0;
    loop {
        let page = scheduler.list(path, query.clone()).await.unwrap();
        n += page.tasks.len();
        query.page_token = page.next_page_token;
        if query.page_token.is_none() {
            return n;
        }
    }
}

#[tokio::test]
async fn a_fault_that_is_still_there_halts_it_after_eleven_failures_at_most() {
    let (scheduler, path, worker) = dead_letters(N).await;
    for (n_good, n_redriven, n_failures) in [(0, 1, 1), (1, 11, 10), (8, 11, 3)] {
        worker.n_good.store(n_good, Ordering::Relaxed);
        worker.n_failed.store(0, Ordering::Relaxed);
        let query = RedriveMany::default();
        let redriving = all_of(scheduler.redrive_many(&path, query).await.unwrap()).await;
        assert_eq!(redriving.n_redriven, n_redriven);
        let halted = redriving.halted.unwrap();
        assert!(
            matches!(&halted, Halted::SameFailure { failure, .. } if failure.code.as_str() == "bug"),
            "{halted:?}"
        );
        assert!(worker.n_failed.load(Ordering::Relaxed) <= n_failures);
    }
}

#[tokio::test]
async fn a_fault_that_is_mended_lets_all_of_them_run() {
    let (scheduler, path, worker) = dead_letters(N).await;
    worker.n_good.store(usize::MAX, Ordering::Relaxed);
    let mut steps = Vec::new();
    let query = RedriveMany::default();
    let mut redrive = scheduler.redrive_many(&path, query).await.unwrap();
    while let Some(step) = redrive.step().await.unwrap() {
        steps.push(step.n_redriven);
    }
    let redriving = redrive.so_far().clone();
    assert_eq!((redriving.n_found, redriving.n_redriven), (N, N));
    assert_eq!((redriving.n_skipped, redriving.halted), (0, None));
    steps.dedup();
    assert_eq!(steps[..3], [1, 11, 11 + N / 100]);
    assert_eq!(n_discarded(&scheduler, &path).await, 0);
}

#[tokio::test]
async fn only_what_is_asked_for_is_redriven() {
    let (scheduler, path, worker) = dead_letters(20).await;
    worker.n_good.store(usize::MAX, Ordering::Relaxed);
    let redrive = async |query| scheduler.redrive_many(&path, query).await;
    let other = RedriveMany {
        code: Some("another".try_into().unwrap()),
        ..RedriveMany::default()
    };
    assert_eq!(redrive(other).await.unwrap().so_far().n_found, 0);
    let some = RedriveMany {
        code: Some("bug".try_into().unwrap()),
        limit: 5,
        ..RedriveMany::default()
    };
    let redriving = all_of(redrive(some).await.unwrap()).await;
    assert_eq!((redriving.n_found, redriving.n_redriven), (5, 5));
    assert_eq!(n_discarded(&scheduler, &path).await, 15);
    let none = RedriveMany {
        limit: 0,
        ..RedriveMany::default()
    };
    let refused = redrive(none).await;
    assert!(matches!(refused, Err(Error::Invalid(fault)) if fault.field == "limit"));
}

#[tokio::test]
async fn it_halts_where_nothing_runs() {
    let (scheduler, path, _worker) = dead_letters(20).await;
    scheduler.pause(&path, "ann", "an incident").await.unwrap();
    let hasty = RedriveMany {
        patience: Duration::from_millis(100),
        ..RedriveMany::default()
    };
    let redriving = all_of(scheduler.redrive_many(&path, hasty).await.unwrap()).await;
    assert_eq!(redriving.n_redriven, 1);
    assert_eq!(redriving.halted, Some(Halted::NoVerdict { n: 1 }));
}
