//! The book as a whole: who is asked, and who is woken.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::sync::mpsc;

use super::{Act, Address, Book, Wake};
use crate::{
    Error, Pipeline, PipelineNumber, PipelineSpec, Revision, ShardId, Timestamp,
    call::Poll,
    member::{News, Sought, shards_of},
};

/// A book of one pipeline with four partitions, of which none is here.
struct Desk {
    book: Book,
    now: Timestamp,
    pipeline: Pipeline,
    owner: Option<Address>,
    asked: Vec<(u64, Vec<Sought>)>,
    n_looks: usize,
}

impl Desk {
    fn new() -> Self {
        let pipeline = Pipeline {
            number: PipelineNumber(1),
            path: crate::path("default", "app", "pipe").unwrap(),
            revision: Revision(1),
            spec: PipelineSpec {
                steps: [].into(),
                n_partitions: 4,
                ..PipelineSpec::default()
            },
            mode: crate::Mode::Active,
            created_at: Timestamp::EPOCH,
        };
        Self {
            book: Book::new(7),
            now: Timestamp::from_millis(1_000_000),
            pipeline,
            owner: Some("b".into()),
            asked: Vec::new(),
            n_looks: 0,
        }
    }

    fn join(&mut self) -> (u64, mpsc::Receiver<Wake>) {
        let (wake, wakes) = mpsc::channel(4);
        let id = self.book.join(&self.pipeline, &poll(), wake, self.now);
        (id, wakes)
    }

    /// Lets time pass; owners are found at once.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            for act in self.book.step(self.now, |_| false) {
                match act {
                    Act::Ask(_, call, sought) => self.asked.push((call, sought)),
                    Act::Look(shards) => self.look(&shards),
                    Act::Drop(call) => self.asked.retain(|(asked, _)| *asked != call),
                    Act::Forget(..) => {}
                }
            }
            let wake = self.book.wake_at().filter(|at| *at <= end);
            let Some(at) = wake else {
                self.now = end;
                return;
            };
            self.now = at.max(self.now);
        }
    }

    fn look(&mut self, shards: &[ShardId]) {
        self.n_looks += 1;
        let owner = self.owner.clone();
        let owned = |shard: &ShardId| Some((*shard, owner.clone()?));
        let owners: BTreeMap<_, _> = shards.iter().filter_map(owned).collect();
        self.book.looked(shards, Some(&owners), self.now);
    }

    fn answer(&mut self, answer: Result<News, Error>) {
        let (call, _) = self.asked.remove(0);
        let answer = answer.map(|news| vec![(0, news)]);
        let from = self.owner.clone().unwrap_or_else(|| "b".into());
        self.book.answered(&from, call, answer, self.now);
    }
}

fn poll() -> Poll {
    Poll::new("w".try_into().unwrap(), 1)
}

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[test]
fn polls_that_offer_the_same_are_one_question() {
    let mut desk = Desk::new();
    let _waiting: Vec<_> = (0..100).map(|_| desk.join()).collect();
    desk.pass(millis(20));
    assert_eq!(desk.asked.len(), 1);
    let (_, sought) = &desk.asked[0];
    assert_eq!(sought.len(), 1);
    assert_eq!(
        sought[0].partitions.len(),
        shards_of(&desk.pipeline).count()
    );
    desk.pass(Duration::from_secs(5));
    assert_eq!(desk.asked.len(), 1, "it is asked once");
}

#[test]
fn a_ready_member_wakes_twice_as_many_each_time_that_all_get_something() {
    let mut desk = Desk::new();
    let mut waiting: Vec<_> = (0..20).map(|_| desk.join()).collect();
    desk.pass(millis(20));
    let mut woken = Vec::new();
    while !waiting.is_empty() {
        desk.answer(Ok(News::Ready));
        let mut n_woken = 0;
        waiting.retain_mut(|(id, wakes)| {
            let is_woken = wakes.try_recv().is_ok();
            if is_woken {
                n_woken += 1;
                desk.book.tried(*id, Some(true), desk.now);
                desk.book.leave(*id, desk.now);
            }
            !is_woken
        });
        woken.push(n_woken);
        desk.pass(millis(1));
    }
    assert_eq!(woken, [1, 2, 4, 8, 5]);
}

#[test]
fn a_member_where_nothing_was_found_is_asked_again_after_a_growing_pause() {
    let mut desk = Desk::new();
    let (id, mut wakes) = desk.join();
    desk.pass(millis(20));
    let mut pauses = Vec::new();
    for _ in 0..5 {
        desk.answer(Ok(News::Ready));
        assert_eq!(wakes.try_recv(), Ok(Wake::Ready("b".into())));
        desk.book.tried(id, Some(false), desk.now);
        let start = desk.now;
        while desk.asked.is_empty() {
            desk.pass(millis(1));
        }
        pauses.push(desk.now.since(start).as_millis());
    }
    assert_eq!(pauses, [100, 200, 400, 800, 1_000]);
}

#[test]
fn a_poll_that_left_before_it_looked_leaves_the_wake_to_the_next() {
    let mut desk = Desk::new();
    let (first, _wakes) = desk.join();
    let (_second, mut wakes) = desk.join();
    desk.pass(millis(20));
    desk.answer(Ok(News::Ready));
    assert!(wakes.try_recv().is_err());
    desk.book.leave(first, desk.now);
    desk.pass(millis(1));
    desk.answer(Ok(News::Ready));
    assert!(wakes.try_recv().is_ok());
}

#[test]
fn partitions_without_an_owner_are_looked_up_until_they_have_one() {
    let mut desk = Desk::new();
    desk.owner = None;
    let _waiting = desk.join();
    desk.pass(Duration::from_secs(10));
    assert_eq!(desk.asked.len(), 0);
    assert!((15..=25).contains(&desk.n_looks), "{}", desk.n_looks);
    desk.owner = Some("c".into());
    desk.pass(millis(550));
    assert_eq!(desk.asked.len(), 1);
}

#[test]
fn a_member_that_cannot_be_reached_is_asked_a_few_times_a_second_at_most() {
    let mut desk = Desk::new();
    let _waiting = desk.join();
    let start = desk.now;
    let mut n_asked = 0;
    while desk.now.since(start) < Duration::from_secs(20) {
        desk.pass(millis(10));
        if !desk.asked.is_empty() {
            n_asked += 1;
            desk.answer(Err(Error::moved()));
        }
    }
    assert!((10..=40).contains(&n_asked), "{n_asked} in 20 s");
}

#[test]
fn nothing_is_left_of_polls_that_are_gone() {
    let mut desk = Desk::new();
    let waiting: Vec<_> = (0..10).map(|_| desk.join()).collect();
    desk.pass(millis(20));
    for (id, _) in waiting {
        desk.book.leave(id, desk.now);
    }
    let (call, _) = desk.asked.remove(0);
    desk.book
        .answered(&Arc::from("b"), call, Ok(Vec::new()), desk.now);
    desk.pass(Duration::from_secs(120));
    let book = &desk.book;
    let n_left = book.waiters.len() + book.crowds.len() + book.crowd_of.len();
    assert_eq!((n_left, book.peers.len(), book.lines.len()), (0, 0, 0));
    assert_eq!(book.wake_at(), None);
    assert_eq!(desk.asked, []);
}
