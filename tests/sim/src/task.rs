//! The tasks that clients submit: a task's name says how its work goes.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use scheduler_core::{
    Failure, GroupName, IdempotencyKey, OrderingKey, Outcome, Retention, TaskOptions, Timestamp,
    port::log::{NewTask, RecordBody},
    task::retry::{Jitter, RetryPolicy},
};

use crate::plan::Plan;

const BEFORE: &[u8] = b"{\"task\":\"";
const AFTER: &[u8] = b"\"}";

/// The code of what fails since a dependency is away.
pub(crate) const OUTAGE: &str = "outage";

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
    /// Works, and takes as long as all others of its kind.
    Even,
}

/// What the work of a task depends on beside its kind.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Weather {
    /// Faults are over.
    pub(crate) is_healed: bool,
    /// Whatever runs fails now.
    pub(crate) is_outage: bool,
    /// There are few credits, so what never works says that it will not.
    pub(crate) has_few_credits: bool,
}

impl Kind {
    pub(crate) fn of(name: &str) -> Self {
        match name.split('-').next() {
            Some("slow") => Self::Slow,
            Some("stuck") => Self::Stuck,
            Some("fails") => Self::Fails,
            Some("moody") => Self::Moody,
            Some("even") => Self::Even,
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
    pub(crate) fn work(self, rng: &mut fastrand::Rng, weather: Weather) -> (Duration, Outcome) {
        let is_healed = weather.is_healed;
        let millis = match self {
            Self::Plain | Self::Fails => rng.u64(10..1_500),
            Self::Moody => rng.u64(10..4_000),
            Self::Slow => rng.u64(1_000..40_000),
            Self::Stuck => 1_000,
            Self::Even => 400,
        };
        let took = Duration::from_millis(millis);
        let completed = Outcome::Completed {
            result: Bytes::from_static(b"1"),
        };
        let outcome = match (self, rng.u32(0..10)) {
            (Self::Fails, _) => failed("always", !weather.has_few_credits),
            (Self::Plain | Self::Slow, _) if weather.is_outage => failed(OUTAGE, true),
            (Self::Moody, 0..3) if !is_healed => failed("moody", true),
            (Self::Moody, 3..5) if !is_healed => Outcome::Interrupted,
            (Self::Moody, 5..6) if !is_healed => {
                Outcome::Snoozed(Duration::from_millis(rng.u64(0..20_000)))
            }
            (Self::Plain | Self::Slow | Self::Stuck | Self::Moody | Self::Even, _) => completed,
        };
        (took, outcome)
    }
}

fn failed(code: &str, retryable: bool) -> Outcome {
    let code = code.try_into();
    Outcome::Failed(Failure {
        code: code.unwrap_or_else(|err| unreachable!("a code of our own: {err}")),
        message: "as its name says".to_owned(),
        retryable,
        detail: Bytes::new(),
    })
}

/// A task of some kind, with some options, and whether it is to run on, if it may.
pub(crate) fn some(
    rng: &mut fastrand::Rng,
    n: u64,
    now: Timestamp,
    plan: &Plan,
    may_stick: bool,
) -> (NewTask, bool) {
    let (kind, name) = match Kind::pick(rng) {
        (Kind::Stuck, _) if !may_stick => (Kind::Plain, "plain"),
        (Kind::Stuck | Kind::Fails | Kind::Moody, _) if plan.is_easy => (Kind::Plain, "plain"),
        picked => picked,
    };
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
        group: (plan.is_limited && rng.bool()).then(|| group(rng.u32(0..3))),
        ..TaskOptions::default()
    };
    if kind == Kind::Stuck {
        // It would hold up its whole line by intention.
        options.key = None;
    }
    match kind {
        Kind::Slow if !plan.is_easy => {
            options.timeout = seconds(rng.u64(20..60)).filter(|_| rng.bool());
            options.heartbeat_timeout = seconds(rng.u64(15..60)).filter(|_| rng.bool());
        }
        Kind::Fails => {
            options.retry = Some(few_attempts(rng));
        }
        Kind::Plain if plan.outage.is_some() => options.retry = Some(few_attempts(rng)),
        Kind::Plain | Kind::Slow | Kind::Stuck | Kind::Moody | Kind::Even => {}
    }
    (new(&format!("{name}-{n}"), options), kind == Kind::Stuck)
}

fn few_attempts(rng: &mut fastrand::Rng) -> RetryPolicy {
    RetryPolicy {
        max_attempts: rng.u32(1..4),
        initial: Duration::from_millis(500),
        factor: 2.0,
        max: Duration::from_secs(8),
        jitter: Jitter::Full,
    }
}

fn group(n: u32) -> GroupName {
    let name = format!("group-{n}");
    let group = name.as_str().try_into();
    group.unwrap_or_else(|err| unreachable!("a group of our own: {err}"))
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
