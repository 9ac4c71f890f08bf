//! Members that die at a point, freeze, come and go under load: what the clients and workers see of it.

use std::time::{Duration, Instant};

use super::{
    cluster::{Cluster, Service, path, spec},
    history::{History, Verdict, now},
    load::TestWorker,
    pressure::Pressure,
};
use crate::fixture::wait_until;

const N_PARTITIONS: u16 = 12;
const N_WORKERS: usize = 4;
const PER_SECOND: u32 = 400;
/// Kafka's session of a member in these tests.
const SESSION: Duration = Duration::from_secs(6);
pub(crate) const SESSION_SETTING: &str = "kafka.session_timeout=6s";
/// A harm may show so long after it: a session, an adoption window and a lease.
const REACH: Duration = Duration::from_secs(6 + 3 + 5);

/// Members, an API and workers that know all members.
pub(crate) struct Setup {
    pub(crate) workers: Vec<TestWorker>,
    pub(crate) members: Vec<Service>,
    pub(crate) apis: Vec<Service>,
    pub(crate) cluster: Cluster,
}

impl Setup {
    fn start(n_members: usize, n_apis: usize) -> Self {
        let cluster = Cluster::start().with(&[
            SESSION_SETTING,
            // So that there is something to trim.
            "scheduler.trim_after=2s",
        ]);
        let members = (0..n_members).map(|_| cluster.member()).collect();
        Self::of(cluster, members, n_apis, N_WORKERS)
    }

    /// Adds APIs and workers to the members of a cluster, and a pipeline whose shards all have an owner.
    pub(crate) fn of(
        cluster: Cluster,
        mut members: Vec<Service>,
        n_apis: usize,
        n_workers: usize,
    ) -> Self {
        let mut apis: Vec<_> = (0..n_apis).map(|_| cluster.api()).collect();
        members.iter_mut().chain(&mut apis).for_each(Service::ready);
        let spec = spec(N_PARTITIONS);
        let created = apis[0].client();
        let created = cluster.run(created.create_pipeline(&path("work"), &spec));
        created.unwrap();
        for api in &apis {
            let client = api.client();
            wait_until("the API knows the pipeline", || {
                cluster.run(client.pipeline(&path("work"))).ok()
            });
        }
        wait_until("all shards have an owner", || {
            let n_owned = cluster.number("SELECT COUNT(*) FROM shard WHERE address IS NOT NULL");
            (n_owned == i64::from(N_PARTITIONS)).then_some(())
        });
        let workers = (0..n_workers)
            .map(|i| {
                // Each at another member, and at the next if that one is away.
                let (before, from) = members.split_at(i % members.len());
                let order = from.iter().chain(before);
                let endpoints: Vec<_> = order.map(|member| member.grpc.clone()).collect();
                let notes = cluster.home().join(format!("work-{i}.notes"));
                TestWorker::start(&endpoints.join(","), "work", notes, 16)
            })
            .collect();
        Self {
            workers,
            members,
            apis,
            cluster,
        }
    }

    pub(crate) fn pressure(&self, per_second: u32) -> Pressure {
        let apis: Vec<_> = self.apis.iter().collect();
        Pressure::start(&self.cluster, &apis, "work", per_second)
    }

    pub(crate) fn finish(&self, pressure: Pressure) -> History {
        pressure.finish(&self.cluster, &self.workers)
    }

    /// Waits until the workers have begun so many more tasks.
    fn go_on(&self, pressure: &Pressure, n: usize) {
        let goal = pressure.n_accepted() + n;
        wait_until("more tasks are accepted", || {
            (pressure.n_accepted() >= goal).then_some(())
        });
    }
}

/// Prints what was seen, and fails if a promise was broken.
pub(crate) fn judged(history: &History) -> Verdict {
    for harm in &history.harms {
        println!("{} for {} ms", harm.what, harm.till - harm.from);
    }
    let verdict = history.judge(REACH);
    match verdict {
        Ok(verdict) => {
            println!(
                "{} accepted, {} unknown, {} refused, {} shown as completed, {} ran again",
                verdict.n_accepted,
                history.n_unknown,
                history.n_refused,
                history.completed.len(),
                verdict.n_again
            );
            verdict
        }
        Err(broken) => {
            let some: Vec<_> = broken.iter().take(20).collect();
            panic!("{} broken promises: {some:#?}", broken.len());
        }
    }
}

#[test]
fn a_member_that_dies_at_any_point_loses_nothing() {
    let mut setup = Setup::start(2, 1);
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
    let setup = Setup::start(2, 1);
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
    let mut setup = Setup::start(3, 2);
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
    let mut setup = Setup::start(2, 1);
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
