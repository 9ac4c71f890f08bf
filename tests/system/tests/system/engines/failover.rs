//! How long it takes others to take over from a member that was killed.
//!
//! `FAILOVER_KILLS`, `FAILOVER_ADOPTION` (seconds) and `RECOVERY_TASKS` ask for more than the checks need.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use super::{
    cluster::{Cluster, Service, path, spec},
    history::{History, now},
    load::submit_all,
    pressure::Load,
    setup::{SESSION, SESSION_SETTING, Setup, Size, from_environment, judged},
};
use crate::fixture::wait_until;

const N_MEMBERS: usize = 3;
const KILLS: u64 = 2;
const ADOPTION_SECONDS: u64 = 3;
/// How long a member is frozen before it is killed, so that tasks are accepted which it has not read.
const FROZEN: Duration = Duration::from_millis(300);
/// How long after the kill new tasks of a shard that moved start.
const NEW_WITHIN: Duration = Duration::from_secs(10);
/// Tasks in memory of the member that is killed.
const RECOVERED: u64 = 10_000;

/// A kill, and which partitions moved by it.
struct Kill {
    at: u64,
    partitions: BTreeSet<u16>,
}

impl Kill {
    /// Milliseconds from the kill until, in a shard that moved, a task was begun that was accepted before, and one that was
    /// accepted after: those that are newer than the claim wait for nobody.
    fn measure(&self, history: &History) -> (u64, u64) {
        let moved = history.runs.iter().filter(|run| {
            let partition = run.id.shard.partition.0;
            self.partitions.contains(&partition) && run.began_at > self.at
        });
        let (mut first_replayed, mut first_new) = (u64::MAX, u64::MAX);
        for run in moved {
            let Some(accepted_at) = history.accepted.get(&run.id) else {
                continue;
            };
            let first = if *accepted_at < self.at {
                &mut first_replayed
            } else {
                &mut first_new
            };
            *first = (*first).min(run.began_at - self.at);
        }
        (first_replayed, first_new)
    }
}

fn print_spread(what: &str, millis: &mut [u64]) {
    millis.sort_unstable();
    let (p50, max) = (millis[millis.len() / 2], millis[millis.len() - 1]);
    println!("{what}: p50 {p50} ms, max {max} ms");
}

#[test]
fn others_take_over_within_the_session_and_the_adoption_window() {
    let n_kills = from_environment("FAILOVER_KILLS").unwrap_or(KILLS);
    let adoption = from_environment("FAILOVER_ADOPTION").unwrap_or(ADOPTION_SECONDS);
    let adoption_setting = format!("scheduler.adoption_window={adoption}s");
    let adoption = Duration::from_secs(adoption);
    let cluster = Cluster::start().with(&[SESSION_SETTING, &adoption_setting]);
    let members = (0..N_MEMBERS).map(|_| cluster.member()).collect();
    let size = Size {
        n_partitions: 24,
        ..Size::default()
    };
    let mut setup = Setup::of(cluster, members, size);
    let pressure = setup.load(Load {
        pipeline: "work",
        per_second: 300,
        data: "{}",
    });
    setup.go_on(&pressure, 600);
    let (mut kills, mut claimed) = (Vec::new(), Vec::new());
    for n in 0..n_kills {
        let victim = usize::try_from(n).unwrap() % N_MEMBERS;
        let partitions = setup.cluster.partitions_of(&setup.members[victim]);
        assert!(!partitions.is_empty());
        let from = now();
        setup.members[victim].signal("STOP");
        std::thread::sleep(FROZEN);
        setup.members[victim].kill();
        kills.push(Kill {
            at: now(),
            partitions,
        });
        wait_until("others have its shards", || {
            let left = setup.cluster.partitions_of(&setup.members[victim]);
            left.is_empty().then_some(())
        });
        claimed.push(now() - kills.last().map_or(0, |kill: &Kill| kill.at));
        std::thread::sleep(adoption + Duration::from_secs(1));
        setup.members[victim].start();
        setup.members[victim].ready();
        pressure.harmed("kill", from);
        setup.go_on(&pressure, 600);
    }
    let history = setup.finish(pressure);
    judged(&history);
    let measured = kills.iter().map(|kill| kill.measure(&history));
    let (mut replayed, mut new): (Vec<_>, Vec<_>) = measured.unzip();
    println!("{n_kills} kills, session {SESSION:?}, adoption window {adoption:?}:");
    print_spread(
        "from the kill until others have all its shards",
        &mut claimed,
    );
    print_spread("from the kill to the first replayed task", &mut replayed);
    print_spread("from the kill to the first new task", &mut new);
    let bound = |duration: Duration| u64::try_from(duration.as_millis()).unwrap();
    assert!(new.iter().all(|new| *new < bound(NEW_WITHIN)));
    assert!(
        replayed
            .iter()
            .all(|replayed| *replayed < bound(NEW_WITHIN + adoption))
    );
}

#[test]
fn what_a_killed_member_had_in_memory_is_read_again() {
    let n_tasks = from_environment("RECOVERY_TASKS").unwrap_or(RECOVERED);
    let cluster = Cluster::start().with(&[SESSION_SETTING]);
    let (mut victim, mut api) = (cluster.member(), cluster.api());
    victim.ready();
    api.ready();
    let client = api.client();
    let (pipeline, spec) = (path("work"), spec(24));
    let created = client.create_pipeline(&pipeline, &spec);
    cluster.run(created).unwrap();
    let n = usize::try_from(n_tasks).unwrap();
    cluster.run(submit_all(&client, "work", n));
    let in_memory = |member: &Service| member.metric("workload_window_tasks");
    #[expect(clippy::cast_precision_loss, reason = "a gauge needs no last digit")]
    let all = n_tasks as f64;
    wait_until("all are in memory", || {
        (in_memory(&victim) >= all).then_some(())
    });
    // Before the other joins, so that nothing is handed over.
    victim.signal("STOP");
    let mut heir = cluster.member();
    wait_until("it has claimed the shards", || {
        (cluster.partitions_of(&heir).len() == 24).then_some(())
    });
    let claimed = Instant::now();
    victim.kill();
    wait_until("all are in memory again", || {
        (in_memory(&heir) >= all).then_some(())
    });
    println!(
        "{n_tasks} tasks: in memory {:.2} s after the claim",
        claimed.elapsed().as_secs_f64()
    );
    heir.ready();
}
