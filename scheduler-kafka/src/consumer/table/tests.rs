//! What the table gives, plans and refuses.

use std::collections::BTreeSet;

use scheduler_core::{
    Timestamp,
    port::log::{NewTask, RecordBody},
};

use super::*;

const TOPIC: &str = "w.t.a.p";

fn shard(partition: u16) -> ShardId {
    ShardId {
        pipeline: PipelineNumber(1),
        partition: Partition(partition),
    }
}

fn known(_: PipelineNumber) -> Option<Known> {
    Some(Known {
        name: TOPIC.into(),
        id: "id-1".into(),
        n_partitions: 8,
    })
}

fn fetch_of(partition: u16, from: u64) -> Fetch {
    Fetch {
        shard: shard(partition),
        from: Offset(from),
        n_max: 100,
        bytes_max: 1 << 20,
    }
}

fn record(offset: u64, n_bytes: usize) -> Record {
    let task = NewTask {
        data: vec![b'x'; n_bytes].into(),
        options: None,
        traceparent: None,
    };
    Record {
        offset: Offset(offset),
        accepted_at: Timestamp::EPOCH,
        body: RecordBody::Task(task),
    }
}

struct Rig {
    table: Table,
    now: Instant,
}

impl Rig {
    fn new(bytes_max: usize) -> Self {
        Self {
            table: Table::new(bytes_max),
            now: Instant::now(),
        }
    }

    fn fetch(&mut self, wanted: &[Fetch]) -> Fetches {
        self.table.fetch(wanted, self.now, known).0
    }

    fn offsets(&mut self, wanted: Fetch) -> Vec<u64> {
        let read = self.fetch(&[wanted]).read;
        let records = read.into_iter().flat_map(|fetched| fetched.records);
        records.map(|record| record.offset.0).collect()
    }

    fn plan(&mut self) -> Plan {
        self.table.plan(self.now)
    }

    fn push(&mut self, partition: i32, offsets: std::ops::Range<u64>) {
        for offset in offsets {
            self.table.push(TOPIC, partition, record(offset, 10));
        }
    }
}

fn place(partition: u16) -> Place {
    (TOPIC.into(), partition)
}

#[test]
fn what_was_given_is_kept_until_more_is_asked_for() {
    let mut rig = Rig::new(1 << 20);
    assert_eq!(rig.fetch(&[fetch_of(0, 5)]), Fetches::default());
    assert_eq!(rig.plan().join, [(place(0), Offset(5))]);
    rig.push(0, 5..9);
    assert_eq!(rig.offsets(fetch_of(0, 5)), [5, 6, 7, 8]);
    assert_eq!(rig.offsets(fetch_of(0, 5)), [5, 6, 7, 8]);
    assert_eq!(rig.offsets(fetch_of(0, 7)), [7, 8]);
    assert!(rig.offsets(fetch_of(0, 9)).is_empty());
    assert_eq!(rig.table.n_bytes, 0);
    assert_eq!(rig.plan(), Plan::default());
}

#[test]
fn a_fetch_from_elsewhere_reads_anew() {
    let mut rig = Rig::new(1 << 20);
    rig.fetch(&[fetch_of(0, 5)]);
    rig.plan();
    rig.push(0, 5..9);
    rig.fetch(&[fetch_of(0, 8)]);
    for elsewhere in [7, 100] {
        assert!(rig.offsets(fetch_of(0, elsewhere)).is_empty());
        let plan = rig.plan();
        assert_eq!(plan.leave, [place(0)]);
        assert_eq!(plan.join, [(place(0), Offset(elsewhere))]);
    }
}

#[test]
fn what_comes_from_an_earlier_assignment_means_nothing() {
    let mut rig = Rig::new(1 << 20);
    rig.fetch(&[fetch_of(0, 5)]);
    rig.plan();
    rig.push(0, 5..9);
    rig.fetch(&[fetch_of(0, 2)]);
    // The consumer has not heard of it yet, and tells of where it was before.
    rig.push(0, 9..10);
    assert!(!rig.table.end(TOPIC, 0, 10));
    assert!(!rig.table.lose(TOPIC, 0, "before"));
    assert_eq!(rig.fetch(&[fetch_of(0, 2)]), Fetches::default());
    rig.plan();
    rig.push(0, 2..4);
    assert_eq!(rig.offsets(fetch_of(0, 2)), [2, 3]);
}

#[test]
fn an_end_beyond_what_came_is_a_gap() {
    let mut rig = Rig::new(1 << 20);
    rig.fetch(&[fetch_of(0, 0)]);
    rig.plan();
    rig.push(0, 0..2);
    assert!(!rig.table.end(TOPIC, 0, 2), "nothing is missing");
    assert!(rig.table.end(TOPIC, 0, 7));
    let fetched = rig.fetch(&[fetch_of(0, 0)]).read.remove(0);
    assert_eq!((fetched.records.len(), fetched.next), (2, Offset(7)));
    let fetched = rig.fetch(&[fetch_of(0, 2)]).read.remove(0);
    assert_eq!((fetched.records.len(), fetched.next), (0, Offset(7)));
    assert_eq!(rig.fetch(&[fetch_of(0, 7)]).read, []);
}

#[test]
fn a_partition_with_much_is_paused_and_goes_on_when_half_is_taken() {
    let mut rig = Rig::new(16 * memory_of(&record(0, 10)));
    rig.fetch(&[fetch_of(0, 0)]);
    rig.plan();
    rig.push(0, 0..3);
    assert_eq!(rig.plan(), Plan::default());
    rig.push(0, 3..4);
    assert!(rig.table.has_work());
    assert_eq!(rig.plan().pause, [place(0)]);
    rig.fetch(&[fetch_of(0, 1)]);
    assert_eq!(rig.plan(), Plan::default());
    rig.fetch(&[fetch_of(0, 2)]);
    assert!(rig.table.has_work());
    assert_eq!(rig.plan().resume, [place(0)]);
    // It is read again from where it was taken last.
    rig.push(0, 3..6);
    assert_eq!(rig.offsets(fetch_of(0, 2)), [2, 3, 4, 5]);
}

#[test]
fn what_nobody_takes_gives_way_when_there_is_no_room() {
    let mut rig = Rig::new(8 * memory_of(&record(0, 10)));
    rig.fetch(&[fetch_of(0, 0), fetch_of(1, 0)]);
    rig.plan();
    rig.push(0, 0..5);
    rig.push(1, 0..3);
    assert!(rig.table.is_full());
    rig.fetch(&[fetch_of(1, 0)]);
    assert_eq!(rig.plan().leave, [place(0)]);
    assert!(!rig.table.is_full());
    assert_eq!(rig.offsets(fetch_of(1, 0)), [0, 1, 2], "this one is wanted");
    assert!(rig.offsets(fetch_of(0, 0)).is_empty());
    assert_eq!(rig.plan().join, [(place(0), Offset(0))]);
}

#[test]
fn what_nobody_wants_for_long_is_left() {
    let mut rig = Rig::new(1 << 20);
    rig.fetch(&[fetch_of(0, 0), fetch_of(1, 0)]);
    rig.plan();
    rig.now += UNWANTED / 2;
    rig.fetch(&[fetch_of(1, 0)]);
    rig.now += UNWANTED / 2;
    assert_eq!(rig.plan().leave, [place(0)]);
}

#[test]
fn a_lost_partition_is_left_and_told_once() {
    let mut rig = Rig::new(1 << 20);
    rig.fetch(&[fetch_of(0, 0), fetch_of(1, 0)]);
    rig.plan();
    rig.push(0, 0..3);
    assert!(rig.table.lose(TOPIC, 0, "gone"));
    rig.push(0, 3..4);
    assert_eq!(rig.plan().leave, [place(0)]);
    let fetches = rig.fetch(&[fetch_of(0, 0), fetch_of(1, 0)]);
    assert_eq!(
        (fetches.read, fetches.lost),
        (vec![], vec![(shard(0), "gone".to_owned())])
    );
    assert_eq!(
        rig.plan(),
        Plan::default(),
        "the consumer has left it already"
    );
    assert_eq!(rig.fetch(&[fetch_of(0, 0)]), Fetches::default());
    assert_eq!(rig.plan().join, [(place(0), Offset(0))]);
}

#[test]
fn another_id_loses_all_partitions_of_its_topic() {
    let mut rig = Rig::new(1 << 20);
    let wanted = [fetch_of(0, 0), fetch_of(1, 0)];
    rig.fetch(&wanted);
    rig.plan();
    assert!(!rig.table.check_id(TOPIC, Some("id-1")));
    assert!(!rig.table.check_id("another", Some("id-2")));
    assert!(rig.table.check_id(TOPIC, Some("id-2")));
    let lost = rig.fetch(&wanted).lost;
    let shards: BTreeSet<_> = lost.into_iter().map(|(shard, _)| shard).collect();
    assert_eq!(shards, [shard(0), shard(1)].into());
}

#[test]
fn trimmed_records_are_not_given_from_the_buffer() {
    let mut rig = Rig::new(1 << 20);
    rig.fetch(&[fetch_of(0, 0)]);
    rig.plan();
    rig.push(0, 0..5);
    rig.table.trim(shard(0), Offset(3));
    assert_eq!(rig.offsets(fetch_of(0, 3)), [3, 4]);
    assert!(rig.offsets(fetch_of(0, 2)).is_empty());
    assert_eq!(
        rig.plan().join,
        [(place(0), Offset(2))],
        "Kafka will say that it is gone"
    );
}

#[test]
fn the_next_pipeline_of_a_topic_takes_the_place_of_the_one_before() {
    let mut rig = Rig::new(1 << 20);
    rig.fetch(&[fetch_of(0, 0)]);
    rig.plan();
    let mut next = fetch_of(0, 0);
    next.shard.pipeline = PipelineNumber(2);
    rig.fetch(&[next]);
    let plan = rig.plan();
    assert_eq!(plan.leave, [place(0)]);
    assert_eq!(plan.join, [(place(0), Offset(0))]);
}
