//! The tasks that clients submit: a task's name says how its work goes.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use scheduler_core::{
    Failure, IdempotencyKey, OrderingKey, Outcome, Retention, TaskOptions, Timestamp,
    port::log::{NewTask, RecordBody},
    task::retry::{Jitter, RetryPolicy},
};

const BEFORE: &[u8] = b"{\"task\":\"";
const AFTER: &[u8] = b"\"}";

/// How the work of a task goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Works, soon.
    Plain,
    /// Works, after a while, and asks for a timeout.
    Slow,
    /// Runs until faults are over and others had their time.
    Stuck,
    /// Never works.
    Fails,
    /// Fails, snoozes, is interrupted, and works in the end.
    Moody,
}

impl Kind {
    pub(crate) fn of(name: &str) -> Self {
        match name.split('-').next() {
            Some("slow") => Self::Slow,
            Some("stuck") => Self::Stuck,
            Some("fails") => Self::Fails,
            Some("moody") => Self::Moody,
            _ => Self::Plain,
        }
    }

    fn pick(rng: &mut fastrand::Rng) -> (Self, &'static str) {
        match rng.u32(0..100) {
            0..60 => (Self::Plain, "plain"),
            60..70 => (Self::Slow, "slow"),
            70..71 => (Self::Stuck, "stuck"),
            71..76 => (Self::Fails, "fails"),
            _ => (Self::Moody, "moody"),
        }
    }

    /// How long its work takes, and what comes of it.
    pub(crate) fn work(self, rng: &mut fastrand::Rng, is_healed: bool) -> (Duration, Outcome) {
        let millis = match self {
            Self::Plain | Self::Fails => rng.u64(10..1_500),
            Self::Moody => rng.u64(10..4_000),
            Self::Slow => rng.u64(1_000..40_000),
            Self::Stuck => 1_000,
        };
        let took = Duration::from_millis(millis);
        let completed = Outcome::Completed {
            result: Bytes::from_static(b"1"),
        };
        let outcome = match (self, rng.u32(0..10)) {
            (Self::Fails, _) => failed("always"),
            (Self::Moody, 0..3) if !is_healed => failed("moody"),
            (Self::Moody, 3..5) if !is_healed => Outcome::Interrupted,
            (Self::Moody, 5..6) if !is_healed => {
                Outcome::Snoozed(Duration::from_millis(rng.u64(0..20_000)))
            }
            (Self::Plain | Self::Slow | Self::Stuck | Self::Moody, _) => completed,
        };
        (took, outcome)
    }
}

fn failed(code: &str) -> Outcome {
    let code = code.try_into();
    Outcome::Failed(Failure {
        code: code.unwrap_or_else(|err| unreachable!("a code of our own: {err}")),
        message: "as its name says".to_owned(),
        retryable: true,
        detail: Bytes::new(),
    })
}

/// A task of some kind, with some options.
pub(crate) fn some(rng: &mut fastrand::Rng, n: u64, now: Timestamp) -> NewTask {
    let (kind, name) = Kind::pick(rng);
    let seconds = |n| Some(Duration::from_secs(n));
    let mut options = TaskOptions {
        run_at: match rng.u32(0..8) {
            0 => Some(now + Duration::from_millis(rng.u64(0..3_000))),
            1 => Some(now + Duration::from_secs(rng.u64(3..90))),
            _ => None,
        },
        retention: match rng.u32(0..6) {
            0 => Some(Retention::None),
            1 => Some(Retention::Failures(Duration::from_secs(86_400))),
            _ => None,
        },
        priority: rng
            .bool()
            .then(|| rng.u32(0..10).try_into().unwrap_or_default()),
        key: (rng.u32(0..5) == 0).then(|| ordering_key(rng.u32(0..4))),
        ..TaskOptions::default()
    };
    if kind == Kind::Stuck {
        // It would hold up its whole line by intention.
        options.key = None;
    }
    match kind {
        Kind::Slow => {
            options.timeout = seconds(rng.u64(20..60)).filter(|_| rng.bool());
            options.heartbeat_timeout = seconds(rng.u64(15..60)).filter(|_| rng.bool());
        }
        Kind::Fails => {
            options.retry = Some(RetryPolicy {
                max_attempts: rng.u32(1..4),
                initial: Duration::from_millis(500),
                factor: 2.0,
                max: Duration::from_secs(8),
                jitter: Jitter::Full,
            });
        }
        Kind::Plain | Kind::Stuck | Kind::Moody => {}
    }
    new(&format!("{name}-{n}"), options)
}

/// One of a few ordering keys.
pub(crate) fn ordering_key(n: u32) -> OrderingKey {
    let name = format!("line-{n}");
    let key = name.as_str().try_into();
    key.unwrap_or_else(|err| unreachable!("a key of our own: {err}"))
}

/// A task with a key: what is submitted under it is named `payload`.
pub(crate) fn keyed(key: &IdempotencyKey, payload: &str) -> NewTask {
    let options = TaskOptions {
        idempotency_key: Some(key.clone()),
        ..TaskOptions::default()
    };
    new(payload, options)
}

/// A task that nothing was asked for.
pub(crate) fn new(name: &str, options: TaskOptions) -> NewTask {
    NewTask {
        data: [BEFORE, name.as_bytes(), AFTER].concat().into(),
        options: (!options.is_empty()).then(|| Arc::new(options)),
        traceparent: None,
    }
}

/// The name of a task, from its data.
pub(crate) fn name_of(data: &[u8]) -> &str {
    let name = data.strip_prefix(BEFORE);
    let name = name.and_then(|data| data.strip_suffix(AFTER));
    name.and_then(|name| std::str::from_utf8(name).ok())
        .unwrap_or_default()
}

/// Whether a record is a task that runs on by intention.
pub(crate) fn is_stuck(body: &RecordBody) -> bool {
    match body {
        RecordBody::Task(task) => Kind::of(name_of(&task.data)) == Kind::Stuck,
        RecordBody::Malformed { .. } => false,
    }
}
