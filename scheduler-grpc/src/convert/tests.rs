//! What goes over the wire comes back as it was.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use proptest::prelude::*;
use scheduler_core::{
    Error, Failure, Heartbeat, Held, LeaseLost, LeaseToken, Leased, LeasedTask, Mode, Offset,
    Outcome, Partition, Pipeline, PipelineNumber, PipelineSpec, Poll, Report, Retention, Revision,
    ShardId, StateName, Step, Submit, TaskId, TaskOptions, TaskView, Timestamp,
    explain::{Ahead, Waiting},
    pipeline::command::CommandTemplate,
    pipeline::limits::{Limit, Limits, Rate},
    task::{
        AttemptError,
        retry::{Jitter, RetryPolicy},
    },
};

use super::*;
use crate::pb;

fn id(offset: u64) -> TaskId {
    let shard = ShardId {
        pipeline: PipelineNumber(7),
        partition: Partition(3),
    };
    TaskId {
        shard,
        offset: Offset(offset),
    }
}

fn options() -> TaskOptions {
    TaskOptions {
        run_at: Some(Timestamp::from_millis(1_700_000_000_123)),
        idempotency_key: Some("key-1".try_into().unwrap()),
        timeout: Some(Duration::from_millis(1_500)),
        heartbeat_timeout: Some(Duration::from_secs(5)),
        retry: Some(RetryPolicy {
            max_attempts: 3,
            initial: Duration::from_millis(20),
            factor: 1.5,
            max: Duration::from_secs(9),
            jitter: Jitter::None,
        }),
        non_retryable: Some(vec!["bad_input".try_into().unwrap()]),
        retention: Some(Retention::Failures(Duration::from_secs(60))),
        priority: Some(9.try_into().unwrap()),
        key: Some("order-7".try_into().unwrap()),
        group: Some("group-3".try_into().unwrap()),
        expires_at: Some(Timestamp::from_millis(1_900_000_000_000)),
        total_timeout: Some(Duration::from_secs(90)),
        labels: Some(
            ["gpu", "zone=eu"]
                .map(|label| label.try_into().unwrap())
                .into(),
        ),
        cost: Some(3),
        metadata: BTreeMap::from([("trace".to_owned(), "é".to_owned())]),
    }
}

fn failure() -> Failure {
    Failure {
        code: "exit_code".try_into().unwrap(),
        message: "it failed".into(),
        retryable: false,
        detail: "[1]".into(),
    }
}

fn leased_task() -> LeasedTask {
    LeasedTask {
        id: id(1),
        token: LeaseToken::from_u64(u64::MAX),
        attempt: 2,
        max_attempts: 10,
        data: r#"{"url":"x"}"#.into(),
        options: Some(Arc::new(options())),
        traceparent: Some("00-1-2-01".into()),
        lease: Duration::from_secs(30),
        timeout: None,
        heartbeat_timeout: Some(Duration::from_secs(1)),
        revision: Revision(4),
    }
}

#[test]
fn a_submit_comes_back_as_it_was() {
    let submit = Submit {
        data: r#"{"a":1}"#.into(),
        options: options(),
        delay: Some(Duration::from_secs(3)),
        traceparent: Some("00-a-b-01".into()),
    };
    assert_eq!(
        Submit::try_from(pb::NewTask::from(submit.clone())),
        Ok(submit)
    );
    let plain = Submit::new("{}");
    assert_eq!(
        Submit::try_from(pb::NewTask::from(plain.clone())),
        Ok(plain)
    );
}

#[test]
fn a_poll_and_its_answer_come_back_as_they_were() {
    let path = scheduler_core::path("default", "shop", "mail").unwrap();
    let held = Held {
        id: id(9),
        token: LeaseToken::from_u64(5),
    };
    let poll = Poll {
        held: vec![held],
        ..Poll::new("worker-1".try_into().unwrap(), 3)
    };
    let wire = pb::PollRequest::from((&path, poll.clone()));
    assert_eq!(wire.pipeline, "mail");
    assert_eq!(Poll::try_from(wire), Ok(poll));

    let answer = Leased {
        tasks: vec![leased_task()],
        lost: vec![(held, LeaseLost::TimedOut)],
    };
    assert_eq!(leased(answer.clone().into()), Ok(answer));
}

#[test]
fn every_outcome_comes_back_as_it_was() {
    for outcome in [
        Outcome::Completed {
            result: "null".into(),
        },
        Outcome::Failed(failure()),
        Outcome::Interrupted,
        Outcome::Snoozed(Duration::from_secs(7)),
    ] {
        let report = Report {
            id: id(1),
            token: LeaseToken::from_u64(2),
            outcome,
        };
        assert_eq!(
            Report::try_from(pb::TaskReport::from(report.clone())),
            Ok(report)
        );
    }
}

#[test]
fn heartbeats_and_their_answers_come_back_as_they_were() {
    let heartbeat = Heartbeat {
        id: id(1),
        token: LeaseToken::from_u64(2),
        from_handler: true,
        progress: Some("0.5".into()),
    };
    let wire = pb::TaskHeartbeat::from(heartbeat.clone());
    assert_eq!(Heartbeat::try_from(wire), Ok(heartbeat));

    let results = vec![
        Ok(Duration::from_secs(30)),
        Err(Error::LeaseLost(LeaseLost::Cancelled)),
        Err(Error::not_found("task", "x")),
    ];
    let wire = pb::HeartbeatResponse {
        results: results.iter().cloned().map(Into::into).collect(),
    };
    assert_eq!(heartbeat_results(wire), results);
}

#[test]
fn a_task_comes_back_as_it_was() {
    let path = scheduler_core::path("acme", "shop", "mail").unwrap();
    for state in StateName::ALL {
        let task = TaskView {
            id: id(1),
            path: path.clone(),
            state,
            attempt: 1,
            max_attempts: 10,
            data: "{}".into(),
            options: None,
            accepted_at: Timestamp::from_millis(1),
            due_at: Some(Timestamp::from_millis(2)),
            started_at: None,
            ended_at: Some(Timestamp::from_millis(1_999)),
            worker: Some("w".try_into().unwrap()),
            progress: Some("1".into()),
            errors: vec![AttemptError {
                attempt: 1,
                token: LeaseToken::from_u64(8),
                worker: "w".try_into().unwrap(),
                at: Timestamp::from_millis(5),
                failure: failure(),
            }],
            result: Some("{}".into()),
            n_before: Some(0),
            waits: Some(Waiting {
                reason: "key".into(),
                text: "another task goes first".to_owned(),
                until: Some(Timestamp::from_millis(7)),
                tasks: vec!["aaaaaaiaaaaaaaaaaaaaaga".parse().unwrap()],
                ahead: Some(Ahead {
                    about: 3,
                    at_most: 9,
                }),
            }),
        };
        assert_eq!(task_view(&path.tenant, task.clone().into()), Ok(task));
    }
}

#[test]
fn a_pipeline_comes_back_as_it_was() {
    let step = Step {
        executor: "wget".try_into().unwrap(),
        commands: vec![CommandTemplate::parse("wget -O /mnt/pipe/a {{url}}").unwrap()],
    };
    let defaults = TaskOptions {
        run_at: None,
        key: None,
        expires_at: None,
        idempotency_key: None,
        ..options()
    };
    let pipeline_of = Pipeline {
        number: PipelineNumber(4),
        path: scheduler_core::path("acme", "shop", "ocr").unwrap(),
        revision: Revision(2),
        spec: PipelineSpec {
            steps: [step].into(),
            defaults,
            n_partitions: 8,
            limits: Limits {
                all: Limit {
                    concurrency: Some(9),
                    rate: Some(Rate {
                        n: 7,
                        per: Duration::from_millis(1_500),
                    }),
                },
                group: Limit::default(),
            },
            pool: Some("gpus".try_into().unwrap()),
        },
        mode: Mode::Active,
        created_at: Timestamp::from_millis(77),
    };
    let paused = Mode::Paused {
        by: "ann".to_owned(),
        reason: "the printer is out of paper".to_owned(),
        at: Timestamp::from_millis(78),
    };
    for mode in [Mode::Active, Mode::Draining, Mode::Deleting, paused] {
        let expected = Pipeline {
            mode,
            ..pipeline_of.clone()
        };
        let read = pipeline(&expected.path.tenant, (&expected).into());
        assert_eq!(read, Ok(expected));
    }
}

#[test]
fn a_fault_names_the_field_as_users_spell_it() {
    let retry = pb::RetryPolicy {
        max_attempts: Some(0),
        ..Default::default()
    };
    let options = pb::TaskOptions {
        retry: Some(retry),
        ..Default::default()
    };
    let task = pb::NewTask {
        options: Some(options),
        ..Default::default()
    };
    let fault = Submit::try_from(task).unwrap_err();
    assert_eq!(fault.field, "options.retry.max_attempts");

    let commands = vec!["ok".to_owned(), "sh -c 'echo {{x}}'".to_owned()];
    let step = pb::Step {
        executor: "sh".into(),
        commands,
    };
    let spec = pb::PipelineSpec {
        steps: vec![step],
        ..Default::default()
    };
    assert_eq!(
        PipelineSpec::try_from(spec).unwrap_err().field,
        "steps[0].commands[1]"
    );
}

#[test]
fn a_negative_duration_is_refused() {
    let wire = prost_types::Duration {
        seconds: -1,
        nanos: 0,
    };
    assert_eq!(duration_of("timeout", wire).unwrap_err().field, "timeout");
}

proptest! {
    #[test]
    fn whole_milliseconds_come_back_as_they_were(millis in 0u64..(1 << 50)) {
        let span = Duration::from_millis(millis);
        prop_assert_eq!(duration_of("x", duration(span)), Ok(span));
        let at = Timestamp::from_millis(millis);
        prop_assert_eq!(timestamp_of("x", timestamp(at)), Ok(at));
    }
}

#[test]
fn stored_tasks_in_every_state_come_back_from_another_member() {
    use scheduler_core::port::{
        log::NewTask,
        store::{Ending, Parked, StoredState, StoredTask},
    };
    let at = Timestamp::from_millis;
    let parked = |kind| StoredState::Parked {
        due_at: at(5_000),
        kind,
    };
    let ended = |ending, keep_until| StoredState::Ended {
        ending,
        ended_at: at(9_000),
        keep_until,
    };
    let states = [
        parked(Parked::Scheduled),
        parked(Parked::Available),
        parked(Parked::Retryable),
        StoredState::Running {
            worker: "w-1".try_into().unwrap(),
            leased_at: at(6_000),
        },
        ended(
            Ending::Completed {
                result: "{}".into(),
            },
            Timestamp::NEVER,
        ),
        ended(Ending::Cancelled, at(10_000)),
        ended(Ending::Discarded, at(11_000)),
    ];
    for state in states {
        let task = StoredTask {
            offset: Offset(12),
            accepted_at: at(1_000),
            task: NewTask {
                data: r#"{"n":1}"#.into(),
                options: Some(Arc::new(options())),
                traceparent: Some("00-01-02-03".into()),
            },
            state,
            attempt: 2,
            token: LeaseToken::from_u64(77),
            started_at: Some(at(2_000)),
            errors: vec![AttemptError {
                attempt: 1,
                token: LeaseToken::from_u64(76),
                worker: "w-0".try_into().unwrap(),
                at: at(3_000),
                failure: failure(),
            }],
        };
        let wire = pb::StoredTask::from(task.clone());
        assert_eq!(task, wire.try_into().unwrap());
    }
}
