//! The kit for tests of those who embed the scheduler: what it promises of time, rest and lost answers.
#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use scheduler_core::{
    Config, Error, Failure, Outcome, PipelinePath, PipelineSpec, Poll, Ports, Report, Scheduler,
    StateName, Submit, TaskOptions, memory,
    port::{Clock, FailureKind, MockCatalog, MockPlacement, PortError, placement::PlacementEvent},
    task::retry::{Jitter, RetryPolicy},
    testing::{Request, TestScheduler, VirtualClock},
};

const SECOND: Duration = Duration::from_secs(1);

fn done() -> Outcome {
    Outcome::Completed { result: "1".into() }
}

fn failed() -> Outcome {
    Outcome::Failed(Failure {
        code: "x".try_into().unwrap(),
        message: String::new(),
        retryable: true,
        detail: "".into(),
    })
}

fn path() -> PipelinePath {
    scheduler_core::path("tenant", "app", "mail").unwrap()
}

fn poll(credit: usize, wait: Duration) -> Poll {
    Poll {
        wait,
        ..Poll::new("w".try_into().unwrap(), credit)
    }
}

async fn started() -> TestScheduler {
    let test = TestScheduler::start().await;
    let spec = PipelineSpec {
        defaults: TaskOptions {
            retry: Some(RetryPolicy {
                max_attempts: 3,
                initial: SECOND * 60,
                factor: 2.0,
                max: SECOND * 600,
                jitter: Jitter::None,
            }),
            ..TaskOptions::default()
        },
        ..PipelineSpec::default()
    };
    test.create_pipeline(&path(), spec).await.unwrap();
    test
}

#[tokio::test(start_paused = true)]
async fn a_delayed_task_runs_when_its_time_has_come_and_not_before() {
    let test = started().await;
    let submit = Submit {
        delay: Some(SECOND * 3600),
        ..Submit::new("{}")
    };
    test.submit(&path(), submit).await.unwrap();
    test.advance(SECOND * 3599).await;
    assert_eq!(test.work(&path(), |_| async { done() }).await, Ok(0));
    test.advance(SECOND).await;
    assert_eq!(test.work(&path(), |_| async { done() }).await, Ok(1));
}

#[tokio::test(start_paused = true)]
async fn retries_come_exactly_after_their_backoff() {
    let test = started().await;
    let submitted = test.submit(&path(), Submit::new("{}")).await.unwrap();
    let starts = Mutex::new(Vec::new());
    let begin = test.clock().now();
    for _ in 0..200 {
        test.work(&path(), |_| async {
            starts.lock().unwrap().push(test.clock().now().since(begin));
            failed()
        })
        .await
        .unwrap();
        test.advance(SECOND).await;
    }
    // One and then two minutes later.
    let starts = starts.into_inner().unwrap();
    assert_eq!(starts, [Duration::ZERO, SECOND * 60, SECOND * 180]);
    let task = test.scheduler().get(&path().tenant, submitted.id).await;
    assert_eq!(task.unwrap().state, StateName::Discarded);
}

#[tokio::test(start_paused = true)]
async fn what_needs_no_time_takes_none() {
    let test = started().await;
    let before = test.clock().now();
    for _ in 0..100 {
        test.submit(&path(), Submit::new("{}")).await.unwrap();
    }
    assert_eq!(test.work(&path(), |_| async { done() }).await, Ok(100));
    test.drain().await;
    assert_eq!(test.clock().now(), before);
    assert_eq!(test.finish(&path(), SECOND).await, Ok(Duration::ZERO));
}

/// The same story twice is the same to the millisecond, with a worker of its own that sleeps.
#[tokio::test(start_paused = true)]
async fn the_same_test_sees_the_same() {
    async fn story() -> (Duration, Vec<Duration>) {
        let test = started().await;
        let begin = test.clock().now();
        let starts = Arc::new(Mutex::new(Vec::new()));
        let worker = tokio::spawn({
            let (scheduler, clock) = (test.scheduler().clone(), test.clock().clone());
            let starts = Arc::clone(&starts);
            async move {
                for n in 0..20 {
                    let leased = scheduler
                        .lease(&path(), poll(1, SECOND * 30))
                        .await
                        .unwrap();
                    let Some(task) = leased.tasks.first() else {
                        continue;
                    };
                    starts.lock().unwrap().push(clock.now().since(begin));
                    clock.sleep_until(clock.now() + SECOND * 7).await;
                    let outcome = if n % 3 == 0 { failed() } else { done() };
                    let (id, token) = (task.id, task.token);
                    let report = Report { id, token, outcome };
                    scheduler.report(&path().tenant, report).await.unwrap();
                }
            }
        });
        for _ in 0..5 {
            test.submit(&path(), Submit::new("{}")).await.unwrap();
            test.advance(SECOND * 3).await;
        }
        let took = test.finish(&path(), SECOND * 900).await.unwrap();
        worker.abort();
        (took, starts.lock().unwrap().clone())
    }
    let first = story().await;
    assert!(first.1.len() > 5, "{first:?}");
    assert_eq!(story().await, first);
}

#[tokio::test(start_paused = true)]
async fn a_submit_whose_answer_is_lost_was_done() {
    let test = started().await;
    let submit = Submit {
        options: TaskOptions {
            idempotency_key: Some("once".try_into().unwrap()),
            ..TaskOptions::default()
        },
        ..Submit::new("{}")
    };
    test.drop_next_reply(Request::Submit);
    let lost = test.submit(&path(), submit.clone()).await;
    assert!(
        matches!(lost, Err(Error::UnknownOutcome { .. })),
        "{lost:?}"
    );
    let again = test.submit(&path(), submit).await.unwrap();
    assert!(again.repeated);
    assert_eq!(test.work(&path(), |_| async { done() }).await, Ok(1));
}

#[tokio::test(start_paused = true)]
async fn a_lease_whose_answer_is_lost_runs_out() {
    let test = started().await;
    test.submit(&path(), Submit::new("{}")).await.unwrap();
    test.drop_next_reply(Request::Lease);
    let offers = Poll {
        offers: true,
        ..poll(1, SECOND)
    };
    let lost = test.lease(&path(), offers.clone()).await;
    assert!(
        matches!(lost, Err(Error::UnknownOutcome { .. })),
        "{lost:?}"
    );
    let none = test.lease(&path(), poll(1, Duration::ZERO)).await.unwrap();
    assert!(none.tasks.is_empty());
    test.advance(Config::default().offer).await;
    let again = test.lease(&path(), offers).await.unwrap();
    assert_eq!(again.tasks[0].attempt, 1);
}

#[tokio::test(start_paused = true)]
async fn a_report_whose_answer_is_lost_can_be_repeated() {
    let test = started().await;
    test.submit(&path(), Submit::new("{}")).await.unwrap();
    let leased = test.lease(&path(), poll(1, SECOND)).await.unwrap();
    let (id, token) = (leased.tasks[0].id, leased.tasks[0].token);
    let outcome = done();
    let report = Report { id, token, outcome };
    test.drop_next_reply(Request::Report);
    let lost = test.report(&path().tenant, report.clone()).await;
    assert!(
        matches!(lost, Err(Error::UnknownOutcome { .. })),
        "{lost:?}"
    );
    assert_eq!(test.report(&path().tenant, report).await, Ok(()));
    assert_eq!(test.finish(&path(), SECOND).await, Ok(Duration::ZERO));
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "not all tasks of tenant/app/mail have ended")]
async fn a_task_that_nobody_takes_fails_the_test_that_waits_for_it() {
    let test = started().await;
    test.submit(&path(), Submit::new("{}")).await.unwrap();
    test.finish(&path(), SECOND * 5).await.unwrap();
}

#[tokio::test]
#[should_panic(expected = "time is not frozen")]
async fn real_time_is_refused() {
    TestScheduler::start().await;
}

/// Ports in memory, but for what `change` puts in their place.
fn ports(change: impl FnOnce(&mut Ports)) -> (VirtualClock, Ports) {
    let clock = VirtualClock::new();
    let mut ports = memory::ports_on(Arc::new(clock.clone()));
    change(&mut ports);
    (clock, ports)
}

#[tokio::test(start_paused = true)]
async fn a_damaged_catalogue_is_for_people_and_not_asked_again() {
    let mut catalog = MockCatalog::new();
    let damaged = || Err(PortError::new("read the catalogue", FailureKind::Damaged));
    catalog.expect_snapshot().times(1).returning(damaged);
    let (_, ports) = ports(|ports| ports.catalog = Arc::new(catalog));
    let started = Scheduler::start(Config::default(), ports).await;
    assert!(matches!(started, Err(Error::Internal(_))), "{started:?}");
}

#[tokio::test(start_paused = true)]
async fn a_member_that_can_no_longer_prove_itself_hands_nothing_out() {
    let n_proofs = Arc::new(AtomicUsize::new(0));
    let mut placement = MockPlacement::new();
    let slots = (0..=255).map(scheduler_core::Slot).collect();
    let mut assigned = Some(PlacementEvent::Assigned(slots));
    let no_news = || PortError::new("follow the placement", FailureKind::Unavailable);
    placement
        .expect_next()
        .returning(move || assigned.take().ok_or_else(no_news));
    placement.expect_prove().returning({
        let n_proofs = Arc::clone(&n_proofs);
        move || match n_proofs.fetch_add(1, Ordering::Relaxed) {
            0..20 => Ok(()),
            _ => Err(PortError::new("prove membership", FailureKind::Unavailable)),
        }
    });
    let (clock, ports) = ports(|ports| ports.placement = Arc::new(placement));
    let test = TestScheduler::start_on(clock, Config::default(), ports)
        .await
        .unwrap();
    let spec = PipelineSpec::default();
    test.create_pipeline(&path(), spec).await.unwrap();
    test.submit(&path(), Submit::new("{}")).await.unwrap();
    test.submit(&path(), Submit::new("{}")).await.unwrap();
    let leased = test.lease(&path(), poll(1, SECOND)).await.unwrap();
    assert_eq!(leased.tasks.len(), 1);
    // The last proof is 4 s old, at the latest, 25 s from the start.
    test.advance(SECOND * 25).await;
    assert!(n_proofs.load(Ordering::Relaxed) > 20);
    let leased = test.lease(&path(), poll(1, SECOND * 20)).await.unwrap();
    assert!(leased.tasks.is_empty());
}
