//! The table of `docs/state_machine.md`, written from the machine itself: `UPDATE_EXPECT=1` renews it.

pub(crate) mod edges;

use std::{collections::BTreeSet, fmt::Write as _, time::Duration};

use bytes::Bytes;
use expect_test::expect_file;

use self::edges::Edge;
use super::{
    Failure, Outcome, TaskOptions,
    event::{Effect, Event},
    retry::{Jitter, RetryPolicy},
    state::{Rules, State, Task},
};
use crate::{
    Epoch, LeaseToken, Offset, Timestamp, WorkerId,
    port::{log::NewTask, store::Ending},
};

const NOW: Timestamp = Timestamp::from_millis(1_000_000);

fn rules() -> Rules {
    Rules {
        lease: Duration::from_secs(30),
        offer: Duration::from_secs(5),
        defaults: TaskOptions {
            retry: Some(RetryPolicy {
                max_attempts: 2,
                jitter: Jitter::None,
                ..RetryPolicy::default()
            }),
            non_retryable: Some(vec!["fatal".try_into().unwrap()]),
            ..TaskOptions::default()
        },
        may_discard: true,
    }
}

fn token(n: u64) -> LeaseToken {
    (0..n).fold(LeaseToken::before_first(Epoch(1)), |token, _| {
        token.next().unwrap()
    })
}

fn worker() -> WorkerId {
    "w".try_into().unwrap()
}

fn available() -> Task {
    let submitted = NewTask {
        data: Bytes::new(),
        options: None,
        traceparent: None,
    };
    Task::accepted(Offset(0), NOW, submitted, NOW)
}

fn expiring() -> Task {
    let options = TaskOptions {
        expires_at: Some(NOW + Duration::from_secs(60)),
        ..TaskOptions::default()
    };
    let mut task = available();
    task.submitted.options = Some(std::sync::Arc::new(options));
    task
}

fn malformed() -> Task {
    let mut task = available();
    task.discard_malformed("it is no JSON object", NOW);
    task
}

fn after(events: impl IntoIterator<Item = (Event, u64)>) -> Task {
    later(available(), events)
}

/// The same for a task that may take a minute in all, its pauses included.
fn limited(events: impl IntoIterator<Item = (Event, u64)>) -> Task {
    let options = TaskOptions {
        total_timeout: Some(Duration::from_secs(60)),
        ..TaskOptions::default()
    };
    let mut task = available();
    task.submitted.options = Some(std::sync::Arc::new(options));
    later(task, events)
}

fn later(mut task: Task, events: impl IntoIterator<Item = (Event, u64)>) -> Task {
    let mut rng = fastrand::Rng::with_seed(1);
    for (event, seconds) in events {
        let at = NOW + Duration::from_secs(seconds);
        task.apply(event, at, &rules(), &mut rng).unwrap();
    }
    task
}

fn leased(n: u64) -> Event {
    Event::Leased {
        token: token(n),
        worker: worker(),
        is_offer: false,
    }
}

fn offered(n: u64) -> Event {
    Event::Leased {
        token: token(n),
        worker: worker(),
        is_offer: true,
    }
}

fn reported(n: u64, outcome: Outcome) -> Event {
    Event::Reported {
        token: token(n),
        outcome,
    }
}

fn failed(code: &str) -> Outcome {
    Outcome::Failed(Failure {
        code: code.try_into().unwrap(),
        message: String::new(),
        retryable: true,
        detail: Bytes::new(),
    })
}

fn done() -> Outcome {
    Outcome::Completed {
        result: Bytes::new(),
    }
}

/// Each state, reached as tasks reach it; all but the first under token 2.
fn states() -> Vec<(&'static str, Task)> {
    let snoozed = || Outcome::Snoozed(Duration::from_secs(60));
    let interrupted = || reported(1, Outcome::Interrupted);
    vec![
        ("available, never leased", available()),
        ("available, its expires_at has passed", expiring()),
        (
            "scheduled",
            after([(leased(1), 0), (reported(1, snoozed()), 0)]),
        ),
        (
            "scheduled, its total_timeout has passed",
            limited([(leased(2), 0), (reported(2, snoozed()), 0)]),
        ),
        (
            "available",
            after([(leased(2), 0), (reported(2, Outcome::Interrupted), 0)]),
        ),
        (
            "available, the offer of it ran out",
            after([(offered(2), 0), (Event::TimerFired, 5)]),
        ),
        ("running, only offered", after([(offered(2), 0)])),
        ("running, attempt 1 of 2", after([(leased(2), 0)])),
        (
            "running, attempt 2 of 2",
            after([
                (leased(1), 0),
                (reported(1, failed("x")), 0),
                (Event::TimerFired, 1),
                (leased(2), 1),
            ]),
        ),
        (
            "retryable",
            after([(leased(2), 0), (reported(2, failed("x")), 0)]),
        ),
        (
            "retryable, its lease merely expired",
            after([(leased(2), 0), (Event::TimerFired, 30)]),
        ),
        (
            "retryable, its total_timeout has passed",
            limited([(leased(2), 0), (reported(2, failed("x")), 0)]),
        ),
        (
            "completed",
            after([(leased(2), 0), (reported(2, done()), 0)]),
        ),
        (
            "cancelled",
            after([
                (leased(1), 0),
                (interrupted(), 0),
                (leased(2), 0),
                (Event::CancelRequested, 0),
            ]),
        ),
        (
            "discarded",
            after([(leased(2), 0), (reported(2, failed("fatal")), 0)]),
        ),
        ("discarded, malformed", malformed()),
    ]
}

fn events() -> Vec<(&'static str, Event)> {
    let renewed = |n| Event::Renewed {
        token: token(n),
        from_handler: true,
        progress: None,
    };
    let adopted = |n| Event::Adopted {
        token: token(n),
        worker: worker(),
    };
    vec![
        ("leased", leased(3)),
        ("offered", offered(3)),
        ("adopted, newer token", adopted(3)),
        ("adopted, older token", adopted(1)),
        ("renewed", renewed(2)),
        ("renewed, older token", renewed(1)),
        ("reported completed", reported(2, done())),
        ("reported completed, older token", reported(1, done())),
        ("reported failed", reported(2, failed("x"))),
        (
            "reported failed, not retryable",
            reported(2, failed("fatal")),
        ),
        ("reported interrupted", reported(2, Outcome::Interrupted)),
        (
            "reported snoozed",
            reported(2, Outcome::Snoozed(Duration::from_secs(1))),
        ),
        ("its time comes", Event::TimerFired),
        ("cancel requested", Event::CancelRequested),
        ("redriven", Event::Redriven),
    ]
}

/// Every edge of the chart, as the table has them.
fn chart() -> BTreeSet<Edge> {
    let mut edges = BTreeSet::new();
    for (_, state) in states() {
        for (_, event) in events() {
            let mut task = state.clone();
            let taken = edges::begin(&task, &event);
            let mut rng = fastrand::Rng::with_seed(1);
            let later = NOW + Duration::from_secs(3600);
            if task.apply(event, later, &rules(), &mut rng).is_ok() {
                edges.insert(taken.to(&task));
            }
        }
    }
    edges
}

fn shown(task: &Task) -> &'static str {
    match task.state() {
        State::Scheduled { .. } => "scheduled",
        State::Available => "available",
        State::Running(_) => "running",
        State::Retryable { .. } => "retryable",
        State::Ended { ending, .. } => match ending {
            Ending::Completed { .. } => "completed",
            Ending::Cancelled => "cancelled",
            Ending::Discarded => "discarded",
        },
    }
}

#[test]
fn the_state_table_is_current() {
    let mut table = String::from(
        "# The states of a task\n\nWritten from the code by a test (`UPDATE_EXPECT=1 cargo test -p scheduler-core`). \
         For each state what each event\nmakes of it: `→` is the new state, `saved` that it must be durable before it is \
         shown or the task is\ngranted again, `told` that the worker is told that its lease is lost. Unless said otherwise, \
         events\nname the newest token. What is not listed is refused and changes nothing.\n",
    );
    for (name, state) in states() {
        writeln!(table, "\n## {name}\n").unwrap();
        for (what, event) in events() {
            let mut task = state.clone();
            let mut rng = fastrand::Rng::with_seed(1);
            let later = NOW + Duration::from_secs(3600);
            let before = task.clone();
            match task.apply(event, later, &rules(), &mut rng) {
                Ok(effect) => {
                    let follows = match effect {
                        Effect::GoOn => "",
                        Effect::SaveFirst => ", saved",
                        Effect::SaveAndTell(_) => ", saved, told",
                    };
                    writeln!(
                        table,
                        "- {what} → {}, attempt {}{follows}",
                        shown(&task),
                        task.attempt()
                    )
                    .unwrap();
                }
                Err(_) => assert_eq!(task, before, "a refused event changes nothing"),
            }
        }
    }
    expect_file!["../../../docs/state_machine.md"].assert_eq(&table);
}

#[test]
fn failures_of_one_cause_have_one_fingerprint() {
    let fingerprint = |code: &str, message: &str| {
        let failure = Failure {
            code: code.try_into().unwrap(),
            message: message.to_owned(),
            retryable: true,
            detail: "".into(),
        };
        failure.fingerprint()
    };
    let one = fingerprint("http", "GET /orders/17: 503 after 20ms");
    assert_eq!(one, fingerprint("http", "GET /orders/4711a: 503 after 3ms"));
    assert_ne!(one, fingerprint("http", "GET /users/17: 503 after 20ms"));
    assert_ne!(one, fingerprint("dns", "GET /orders/17: 503 after 20ms"));
    assert_ne!(fingerprint("a", "b c"), fingerprint("a", "bc"));
}
