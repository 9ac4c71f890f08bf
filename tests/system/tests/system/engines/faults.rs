//! Members that die at a point, freeze, come and go under load: what the clients and workers see of it.

use std::time::{Duration, Instant};

use super::{
    cluster::Service,
    history::now,
    setup::{SESSION, Setup, Size, judged},
};
use crate::fixture::wait_until;

const PER_SECOND: u32 = 400;

#[test]
fn a_member_that_dies_at_any_point_loses_nothing() {
    let mut setup = Setup::start(2, Size::default());
    let pressure = setup.pressure(PER_SECOND);
    setup.go_on(&pressure, 500);
    setup.members[0].stop();
    for (point, n) in [
        ("after_claim", 0),
        ("after_fetch", 20),
        ("before_flush", 10),
        ("after_flush", 10),
        ("before_watermark", 1),
        ("before_trim", 0),
        ("after_trim", 0),
    ] {
        let from = now();
        let member = &mut setup.members[0];
        member.start_to_fail(point, n);
        wait_until("the member dies where it should", || {
            member.has_died().then_some(())
        });
        pressure.harmed(point, from);
    }
    setup.members[0].start();
    setup.go_on(&pressure, 500);
    judged(&setup.finish(pressure));
}

#[test]
fn a_member_that_was_frozen_grants_nothing_when_it_wakes() {
    let setup = Setup::start(2, Size::default());
    let pressure = setup.pressure(PER_SECOND);
    setup.go_on(&pressure, 1_000);
    let zombie = &setup.members[0];
    pressure.harm("a member is frozen", || {
        zombie.signal("STOP");
        std::thread::sleep(2 * SESSION);
        zombie.signal("CONT");
        // What it held is the other's by now, which it must find out.
        std::thread::sleep(Duration::from_secs(2));
    });
    setup.go_on(&pressure, 2_000);
    judged(&setup.finish(pressure));
    let metrics = zombie.get("/metrics").body;
    let metrics = metrics.as_str().unwrap_or_default();
    let fenced = metrics
        .lines()
        .find(|line| line.starts_with("workload_shards_fenced_total"));
    println!("of the one that was frozen: {fenced:?}");
}

#[test]
fn a_rolling_restart_repeats_nothing_and_refuses_nothing() {
    let mut setup = Setup::start(
        3,
        Size {
            n_apis: 2,
            ..Size::default()
        },
    );
    let pressure = setup.pressure(PER_SECOND);
    setup.go_on(&pressure, 500);
    for i in 0..setup.members.len() {
        pressure.harm("a member is restarted", || {
            setup.members[i].stop();
            setup.members[i].start();
            setup.members[i].ready();
        });
        setup.go_on(&pressure, 1_000);
    }
    let history = setup.finish(pressure);
    let verdict = judged(&history);
    assert_eq!((history.n_refused, history.n_unknown), (0, 0), "submits");
    assert_eq!(verdict.n_again, 0, "nothing ran twice");
}

#[test]
fn a_storm_of_joins_and_leaves_repeats_nothing() {
    const STORM: Duration = Duration::from_secs(30);
    const N: u32 = 10;
    let mut setup = Setup::start(2, Size::default());
    let pressure = setup.pressure(PER_SECOND);
    setup.go_on(&pressure, 500);
    let start = Instant::now();
    for i in 1..=N {
        pressure.harm("a member leaves and joins", || {
            let member = &mut setup.members[usize::try_from(i % 2).unwrap()];
            member.stop();
            member.start();
        });
        let until = STORM * i / N;
        std::thread::sleep(until.saturating_sub(start.elapsed()));
    }
    println!("{N} leaves and joins in {:.1?}", start.elapsed());
    setup.members.iter_mut().for_each(Service::ready);
    setup.go_on(&pressure, 1_000);
    let history = setup.finish(pressure);
    let verdict = judged(&history);
    assert_eq!(verdict.n_again, 0, "nothing ran twice");
}
