//! A member whose links to Kafka or TiDB fail while those of the others do not, and one whose clock jumps.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use fastrand::Rng;
use test_servers::{Fault, Proxy};

use super::{
    cluster::Service,
    history::{History, now},
    pressure::Load,
    setup::{Linked, SESSION, Setup, Size, judged},
};
use crate::fixture::wait_until;

const PER_SECOND: u32 = 300;
/// Tasks that are at a worker for a while.
const SLOW_TASKS: Load = Load {
    pipeline: "work",
    per_second: PER_SECOND,
    data: r#"{"millis": 200}"#,
};
/// How old a proof of membership may be, and a while for a lease on its way to a worker.
const PROOF: Duration = Duration::from_secs(4 + 1);

/// How many runs of these partitions began in a time, under an owner from before it.
fn n_begun_by_earlier(
    history: &History,
    partitions: &BTreeSet<u16>,
    from: u64,
    till: u64,
) -> usize {
    let runs = || {
        let runs = history.runs.iter();
        runs.filter(|run| partitions.contains(&run.id.shard.partition.0))
    };
    partitions
        .iter()
        .map(|partition| {
            let of_it = || runs().filter(|run| run.id.shard.partition.0 == *partition);
            let before = of_it().filter(|run| run.began_at < from);
            let epoch = before.map(|run| run.token.epoch()).max();
            let within = of_it().filter(|run| (from..till).contains(&run.began_at));
            within
                .filter(|run| Some(run.token.epoch()) == epoch)
                .count()
        })
        .sum()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap()
}

#[test]
fn without_kafka_a_member_grants_nothing_and_saves_what_it_gave() {
    let linked = Linked::start(&[], Size::default());
    let setup = &linked.setup;
    let pressure = setup.load(SLOW_TASKS);
    setup.go_on(&pressure, 600);
    let partitions = setup.cluster.partitions_of(&setup.members[0]);
    assert!(!partitions.is_empty());
    let cut_at = now();
    pressure.harm("cut off from Kafka", || {
        linked.kafka.proxy().set(Fault::BlackHole);
        wait_until("the other has all shards", || {
            let n = setup.cluster.partitions_of(&setup.members[1]).len();
            (n == usize::from(Size::default().n_partitions)).then_some(())
        });
        std::thread::sleep(SESSION);
        linked.kafka.proxy().set(Fault::None);
    });
    wait_until("it is back", || {
        let n = setup.cluster.partitions_of(&setup.members[0]).len();
        (n > 0).then_some(())
    });
    setup.go_on(&pressure, 600);
    let history = setup.finish(pressure);
    let verdict = judged(&history);
    // Each of its tasks was over within a moment, and saved before another owner asked for it.
    assert_eq!(verdict.n_again, 0);
    let silent_from = cut_at + millis(PROOF);
    let n_begun = n_begun_by_earlier(&history, &partitions, silent_from, u64::MAX);
    assert_eq!(n_begun, 0, "it granted without a proof");
}

#[test]
fn without_tidb_a_member_goes_on_for_a_while_and_then_leaves() {
    const LEAVE_AFTER: Duration = Duration::from_secs(14);
    let mut linked = Linked::start(&["scheduler.leave_after=14s"], Size::default());
    let setup = &mut linked.setup;
    let all = usize::from(Size::default().n_partitions);
    let pressure = setup.load(SLOW_TASKS);
    setup.go_on(&pressure, 600);
    let partitions = setup.cluster.partitions_of(&setup.members[0]);
    let cut_at = now();
    linked.tidb.proxy().set(Fault::BlackHole);
    wait_until("it is not ready", || {
        (setup.members[0].get("/readyz").status == 503).then_some(())
    });
    let why = setup.members[0].get("/readyz").body;
    assert!(why.as_str().unwrap().contains("store"), "{why}");
    assert_eq!(setup.members[0].get("/healthz").status, 200);
    let owned = setup.cluster.partitions_of(&setup.members[0]);
    assert_eq!(owned, partitions, "it is still the owner");
    let start = Instant::now();
    wait_until("the other has all shards", || {
        (setup.cluster.partitions_of(&setup.members[1]).len() == all).then_some(())
    });
    println!(
        "left {:.1} s after it was not ready",
        start.elapsed().as_secs_f64()
    );
    let left_at = now();
    assert!(left_at - cut_at >= millis(LEAVE_AFTER));
    setup.go_on(&pressure, 1_500);
    assert_eq!(setup.members[0].get("/readyz").status, 503);
    linked.tidb.proxy().set(Fault::None);
    setup.members[0].ready();
    pressure.harmed("cut off from TiDB", cut_at);
    assert!(!setup.cluster.partitions_of(&setup.members[0]).is_empty());
    setup.go_on(&pressure, 600);
    let history = setup.finish(pressure);
    let verdict = judged(&history);
    let went_on = cut_at + millis(LEAVE_AFTER) / 2;
    let n_begun = n_begun_by_earlier(&history, &partitions, cut_at, went_on);
    println!(
        "{n_begun} begun by it without TiDB, {} ran again",
        verdict.n_again
    );
    assert!(n_begun > 100, "workers take what is in its window");
    assert_eq!((history.n_refused, history.n_unknown), (0, 0), "submits");
}

/// Breaks and mends a link in one way after the other.
fn flap(rng: &mut Rng, proxy: &Proxy, until: Instant) {
    while Instant::now() < until {
        let fault = rng.choice([
            Fault::Cut,
            Fault::BlackHole,
            // Only one way is gone.
            Fault::HalfOpen,
            Fault::Latency(Duration::from_millis(500)),
        ]);
        proxy.set(fault.unwrap());
        std::thread::sleep(Duration::from_millis(rng.u64(100..1_500)));
        proxy.set(Fault::None);
        std::thread::sleep(Duration::from_millis(rng.u64(100..1_500)));
    }
}

#[test]
fn links_that_flap_or_go_one_way_only_break_nothing() {
    const FLAPPING: Duration = Duration::from_secs(20);
    let mut linked = Linked::start(&[], Size::default());
    let pressure = linked.setup.load(SLOW_TASKS);
    linked.setup.go_on(&pressure, 600);
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    pressure.harm("links flap", || {
        let until = Instant::now() + FLAPPING;
        let (kafka, tidb) = (linked.kafka.proxy(), linked.tidb.proxy());
        std::thread::scope(|scope| {
            scope.spawn(|| flap(&mut Rng::with_seed(seed), kafka, until));
            scope.spawn(|| flap(&mut Rng::with_seed(!seed), tidb, until));
        });
    });
    pressure.harm("TiDB takes 5 s for each answer", || {
        linked
            .tidb
            .proxy()
            .set(Fault::Latency(Duration::from_secs(5)));
        std::thread::sleep(FLAPPING);
        linked.tidb.proxy().set(Fault::None);
    });
    linked.setup.members.iter_mut().for_each(Service::ready);
    linked.setup.go_on(&pressure, 600);
    judged(&linked.setup.finish(pressure));
}

/// The kernel's clock does not jump with that of the process, so that some of librdkafka's waits spin meanwhile: the
/// machine is busier than it would be.
#[test]
fn a_clock_that_jumps_repeats_nothing_and_refuses_nothing() {
    let mut setup = Setup::start(2, Size::default());
    let clock = setup.cluster.home().join("clock");
    let member = &mut setup.members[0];
    member.stop();
    member.start_by_clock(&clock);
    member.ready();
    let pressure = setup.load(SLOW_TASKS);
    setup.go_on(&pressure, 600);
    for jump in ["+1h", "-1h", "+0", "-20m", "+40d", "+0"] {
        let from = now();
        std::fs::write(&clock, jump).unwrap();
        setup.go_on(&pressure, 900);
        println!("{jump} for {} ms", now() - from);
    }
    let history = setup.finish(pressure);
    let verdict = judged(&history);
    assert_eq!(verdict.n_again, 0, "no lease ended early");
    assert_eq!((history.n_refused, history.n_unknown), (0, 0), "submits");
}
