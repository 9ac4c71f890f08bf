//! Questions for workers that wait elsewhere.

use std::{collections::BTreeSet, time::Duration};

use crate::{
    Config, Error, LeaseLost, Outcome, Partition, TaskOptions,
    action::{Answer, CallId},
    call::Held,
    member::{AllNews, Call, Event, News, Sought},
};

use super::rig::{Rig, SHARD, config};

const WAIT: Duration = Duration::from_secs(20);

fn sought(credit: usize) -> Sought {
    Sought {
        pipeline: SHARD.pipeline,
        worker: "far".try_into().unwrap(),
        labels: BTreeSet::new(),
        credit,
        partitions: vec![Partition(0)],
        held: Vec::new(),
    }
}

fn rig() -> Rig {
    Rig::new(config(), TaskOptions::default())
}

fn seek(rig: &mut Rig, sought: Sought) -> CallId {
    rig.call(Call::Seek(vec![sought], WAIT))
}

fn news(rig: &Rig, call: CallId) -> Option<AllNews> {
    match rig.answer(call)? {
        Answer::News(news) => Some(news.clone().unwrap()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_question_is_answered_when_a_task_is_there_that_no_poll_here_takes() {
    let mut rig = rig();
    let asked = seek(&mut rig, sought(1));
    let here = rig.poll("near", 1);
    rig.submit(TaskOptions::default());
    assert!(rig.answer(here).is_some(), "the poll here goes first");
    assert_eq!(news(&rig, asked), None);
    rig.submit(TaskOptions::default());
    assert_eq!(news(&rig, asked), Some(vec![(0, News::Ready)]));
    // It is still so: who asks again is told again, and the task is granted to nobody by that.
    let again = seek(&mut rig, sought(1));
    assert_eq!(news(&rig, again), Some(vec![(0, News::Ready)]));
    assert_eq!(rig.lease("near", 8).len(), 1);
}

#[test]
fn a_question_is_about_tasks_that_such_a_worker_could_take() {
    let mut rig = rig();
    let plain = seek(&mut rig, sought(1));
    let able = Sought {
        labels: ["gpu".try_into().unwrap()].into(),
        credit: 4,
        ..sought(1)
    };
    let few_slots = seek(
        &mut rig,
        Sought {
            credit: 3,
            ..able.clone()
        },
    );
    let able = seek(&mut rig, able);
    let id = rig.submit(TaskOptions {
        labels: Some(["gpu".try_into().unwrap()].into()),
        cost: Some(4),
        ..TaskOptions::default()
    });
    assert_eq!(news(&rig, plain), None);
    assert_eq!(news(&rig, few_slots), None);
    assert_eq!(news(&rig, able), Some(vec![(0, News::Ready)]));
    assert!(rig.member.explain(id, rig.now).is_some());
}

#[test]
fn a_question_is_empty_when_its_time_is_over_and_is_forgotten_with_its_caller() {
    let mut rig = rig();
    let late = seek(&mut rig, sought(1));
    rig.pass(WAIT);
    assert_eq!(news(&rig, late), Some(Vec::new()));
    let gone = seek(&mut rig, sought(1));
    rig.event(Event::PollGone(gone));
    rig.submit(TaskOptions::default());
    assert_eq!(rig.answer(gone), None);
}

#[test]
fn a_member_without_a_proof_says_nothing() {
    let mut rig = rig();
    rig.submit(TaskOptions::default());
    rig.now = rig.now + Duration::from_secs(5);
    let asked = seek(&mut rig, sought(1));
    assert_eq!(news(&rig, asked), None);
    let now = rig.now;
    rig.event(Event::Proven(now));
    assert_eq!(news(&rig, asked), Some(vec![(0, News::Ready)]));
}

#[test]
fn a_question_tells_of_a_partition_that_is_not_here_or_leaves() {
    let mut rig = rig();
    let elsewhere = Sought {
        partitions: vec![Partition(0), Partition(7)],
        ..sought(1)
    };
    let asked = seek(&mut rig, elsewhere);
    let moved = |partition| Some(vec![(0, News::Moved(vec![Partition(partition)]))]);
    assert_eq!(news(&rig, asked), moved(7));
    let asked = seek(&mut rig, sought(1));
    assert_eq!(news(&rig, asked), None);
    rig.event(Event::Revoking(vec![SHARD.slot()]));
    assert_eq!(news(&rig, asked), moved(0));
}

#[test]
fn a_lease_that_is_named_is_renewed_and_its_loss_told() {
    let mut rig = rig();
    rig.submit(TaskOptions::default());
    let task = rig.lease("far", 1).remove(0);
    let held = Held {
        id: task.id,
        token: task.token,
    };
    let holder = Sought {
        held: vec![held],
        ..sought(0)
    };
    rig.pass(Duration::from_secs(20));
    let asked = seek(&mut rig, holder.clone());
    // Beyond the first lease, within the second.
    rig.pass(Duration::from_secs(15));
    assert_eq!(news(&rig, asked), None);
    rig.call(Call::Cancel(task.id));
    let lost = Some(vec![(0, News::Lost(vec![(held, LeaseLost::Cancelled)]))]);
    assert_eq!(news(&rig, asked), lost);
}

#[test]
fn a_lease_is_claimed_again_by_a_question_that_was_there_before_the_shard() {
    let mut rig = rig();
    rig.submit(TaskOptions::default());
    let task = rig.lease("far", 1).remove(0);
    let held = Held {
        id: task.id,
        token: task.token,
    };
    let mut rig = rig.crash();
    let holder = Sought {
        held: vec![held],
        ..sought(0)
    };
    seek(&mut rig, holder);
    rig.pass(Duration::from_secs(13));
    assert!(rig.lease("near", 1).is_empty(), "it runs elsewhere");
    let outcome = Outcome::Completed { result: "1".into() };
    let report = rig.call(Call::Report(vec![(held, outcome)]));
    assert_eq!(rig.answer(report), Some(&Answer::Reported(Ok(()))));
}

#[test]
fn no_more_is_asked_at_once_than_is_allowed() {
    let config = Config {
        calls_max: 2,
        ..config()
    };
    let mut rig = Rig::new(config, TaskOptions::default());
    let too_many = rig.call(Call::Seek(vec![sought(1), sought(2), sought(3)], WAIT));
    let refused = matches!(
        rig.answer(too_many),
        Some(Answer::News(Err(Error::Overloaded { .. })))
    );
    assert!(refused);
}
