//! What stays in memory, what is stored, and what the log still holds.

use super::*;

#[test]
fn a_task_in_the_backlog_can_be_cancelled_and_then_never_runs() {
    let mut rig = Rig::new(
        Config {
            window_tasks_max: 16,
            ..config()
        },
        TaskOptions::default(),
    );
    let ids: Vec<_> = (0..100)
        .map(|_| rig.submit(TaskOptions::default()))
        .collect();
    let far = ids[90];
    assert_eq!(rig.state(far), "backlog");
    let cancel = rig.call(Call::Cancel(far));
    assert_eq!(rig.answer(cancel), Some(&Answer::Cancelled(Ok(()))));
    assert_eq!(rig.state(far), "cancelled");
    let mut rig = rig.crash();
    rig.pass(SECOND * 20);
    let mut n = 0;
    while let [task] = rig.lease("w", 1).as_slice() {
        assert_ne!(task.id, far);
        let held = Held {
            id: task.id,
            token: token(task),
        };
        rig.report(held, completed());
        n += 1;
    }
    assert_eq!(n, 99);
    assert_eq!(rig.durable.watermark, 100);
}

#[test]
fn delayed_tasks_leave_memory_and_come_back_when_due() {
    let mut rig = rig();
    for _ in 0..5_000 {
        let run_at = Some(rig.now + Duration::from_secs(3600));
        rig.submit(TaskOptions {
            run_at,
            ..TaskOptions::default()
        });
    }
    let now = rig.submit(TaskOptions::default());
    rig.pass(SECOND * 2);
    assert_eq!(rig.durable.rows.len(), 5_000);
    assert_eq!(
        rig.member.shards[&SHARD].n_window(),
        1,
        "only the task that can run"
    );
    assert_eq!(rig.lease_one("w").id, now);
    let mut rig = rig.crash();
    assert_eq!(rig.member.shards[&SHARD].n_window(), 1);
    rig.pass(Duration::from_secs(3601));
    let mut n = 0;
    loop {
        let tasks = rig.lease("w", 256);
        if tasks.is_empty() {
            break;
        }
        n += tasks.len();
        for task in tasks {
            let held = Held {
                id: task.id,
                token: task.token,
            };
            rig.report(held, completed());
        }
        rig.pass(Duration::from_millis(1));
    }
    assert_eq!(n, 5_001);
}

#[test]
fn a_straggler_does_not_hold_the_watermark() {
    let mut rig = rig();
    rig.submit(TaskOptions::default());
    let slow = rig.lease_one("slow");
    for _ in 0..3_000 {
        rig.submit(TaskOptions::default());
        let held = rig.lease_one("w");
        rig.report(held, completed());
    }
    rig.pass(SECOND);
    assert!(rig.durable.watermark >= 2_000, "{}", rig.durable.watermark);
    let mut rig = rig.crash();
    let poll = rig.poll_holding("slow", 0, vec![slow]);
    rig.pass(SECOND * 15);
    assert_eq!(rig.answer(poll), None, "the lease survives");
    let call = rig.report(slow, completed());
    assert!(is_reported(rig.answer(call)));
}

#[test]
fn repeated_submits_with_one_key_are_one_task() {
    let mut rig = rig();
    let task = NewTask {
        data: "{}".into(),
        options: Some(std::sync::Arc::new(key("k"))),
        traceparent: None,
    };
    let submit = |rig: &mut Rig, task: &NewTask| {
        rig.call(Call::SubmitKeyed(
            SHARD,
            "k".try_into().unwrap(),
            task.clone(),
        ))
    };
    rig.holds_appends = true;
    let first = submit(&mut rig, &task);
    let second = submit(&mut rig, &task);
    assert_eq!(rig.appends.len(), 1);
    // Meanwhile someone else produced a record with the same key.
    let other = rig.submit_task(task.clone());
    let (key, appended) = rig.appends.remove(0);
    let appended = rig.append(appended);
    let epoch = rig.member.shards[&SHARD].epoch();
    rig.event(Event::KeyedAppended(SHARD, epoch, key, Ok(appended)));
    let id_of = |rig: &Rig, call| match rig.answer(call) {
        Some(Answer::Submitted(Ok((id, _)))) => Some(*id),
        _ => None,
    };
    assert_eq!(id_of(&rig, first), Some(other));
    assert_eq!(id_of(&rig, second), Some(other));
    let held = rig.lease_one("w");
    assert_eq!(held.id, other);
    assert!(rig.lease("w", 1).is_empty(), "the second record never runs");
    rig.report(held, completed());
    let mut rig = rig.crash();
    let late = submit(&mut rig, &task);
    assert_eq!(id_of(&rig, late), Some(other));
    let mut different = task;
    different.data = r#"{"a":1}"#.into();
    let conflict = submit(&mut rig, &different);
    assert!(matches!(
        rig.answer(conflict),
        Some(Answer::Submitted(Err(Error::KeyReused(_))))
    ));
    assert_eq!(rig.durable.watermark, 2);
}

#[test]
fn offsets_that_the_log_does_not_have_count_as_done() {
    let mut rig = rig();
    rig.durable.records.extend([None, None]);
    let id = rig.submit(TaskOptions::default());
    assert_eq!(id.offset, Offset(2));
    rig.durable.records.push(None);
    rig.submit(TaskOptions::default());
    for _ in 0..2 {
        let held = rig.lease_one("w");
        rig.report(held, completed());
    }
    assert_eq!(rig.durable.watermark, 5);
}

#[test]
fn the_log_is_trimmed_a_while_behind_the_watermark() {
    let mut rig = rig();
    for _ in 0..10 {
        rig.submit(TaskOptions::default());
        let held = rig.lease_one("w");
        rig.report(held, completed());
        rig.pass(SECOND * 60);
    }
    assert!(rig.durable.trimmed < 10);
    rig.pass(SECOND * 600);
    assert_eq!(rig.durable.trimmed, 10);
    let flushes = rig.durable.n_flushes;
    rig.pass(SECOND * 3600);
    assert_eq!(
        rig.durable.n_flushes, flushes,
        "an idle shard writes nothing"
    );
}

#[test]
fn a_store_that_cannot_be_read_is_asked_once_a_second() {
    let mut rig = rig();
    rig.fails_reads = true;
    let id = rig.submit(key("k"));
    rig.pass(SECOND * 10);
    assert!((5..20).contains(&rig.n_reads), "{}", rig.n_reads);
    assert!(rig.lease("w", 1).is_empty(), "it may be a repetition");
    rig.fails_reads = false;
    rig.pass(SECOND * 2);
    assert_eq!(rig.lease_one("w").id, id);
}

#[test]
fn results_that_wait_for_their_flush_are_bounded() {
    let mut rig = Rig::new(
        Config {
            payload_bytes_max: 1_000,
            window_bytes_max: 1_000,
            ..config()
        },
        TaskOptions::default(),
    );
    rig.holds_flushes = true;
    let mut calls = Vec::new();
    for _ in 0..10 {
        rig.submit(TaskOptions::default());
    }
    for task in rig.lease("w", 10) {
        let held = Held {
            id: task.id,
            token: task.token,
        };
        let result = vec![b'1'; 500].into();
        calls.push((held, rig.report(held, Outcome::Completed { result })));
    }
    assert!(rig.member.shards[&SHARD].n_bytes() < 3_000);
    let (held, refused) = calls[9];
    assert!(matches!(
        rig.answer(refused),
        Some(Answer::Reported(Err(Error::Overloaded { .. })))
    ));
    rig.release_flushes();
    let again = rig.report(held, completed());
    assert!(is_reported(rig.answer(again)));
}

#[test]
fn a_task_that_fails_often_keeps_its_row_small() {
    let mut rig = Rig::new(config(), retries(20, Duration::ZERO));
    let id = rig.submit(TaskOptions::default());
    for _ in 0..20 {
        let held = rig.lease_one("w");
        let Outcome::Failed(mut failure) = failed("x") else {
            panic!("it failed");
        };
        failure.detail = vec![b'1'; crate::task::DETAIL_LEN_MAX].into();
        rig.report(held, Outcome::Failed(failure));
        rig.pass(Duration::from_millis(1));
    }
    let errors = &rig.durable.rows[&id.offset].errors;
    assert_eq!(errors.len(), 20);
    let details = errors.iter().map(|error| error.failure.detail.len());
    assert_eq!(details.sum::<usize>(), crate::task::DETAILS_LEN_MAX);
}
