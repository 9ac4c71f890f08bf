//! Three members, two APIs and ten workers on 24 partitions, while members are killed or restarted again and again.
//!
//! `SIEGE_TASKS` and `SIEGE_EVERY` (seconds) ask for more than the checks need.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use scheduler_core::{ListTasks, StateName, TaskId};
use test_servers::{Fault, Kafka, Tidb};

use super::{
    cluster::{Cluster, Service, path},
    history::History,
    pressure::{Load, Pressure},
    setup::{SESSION_SETTING, Setup, Size, from_environment, judged},
};
use crate::fixture::wait_until;

const N_MEMBERS: usize = 3;
const PER_SECOND: u32 = 1_500;
const N_TASKS: u64 = 30_000;
const EVERY_SECONDS: u64 = 8;
/// What a member has at least when it is killed: tasks at workers, and ends that are not saved.
const AT_RISK: f64 = 100.0;
/// How slow TiDB is made for it.
const SLOW: Fault = Fault::Latency(Duration::from_millis(300));

/// Dropped in this order: servers last.
struct Siege {
    setup: Setup,
    pressure: Pressure,
    n_tasks: usize,
    every: Duration,
    tidb: Tidb,
    _kafka: Kafka,
}

impl Siege {
    fn start(n_older: usize) -> Self {
        let (kafka, tidb) = (Kafka::start().unwrap(), Tidb::start().unwrap());
        let cluster = Cluster::on(kafka.bootstrap_servers(), tidb.url()).with(&[SESSION_SETTING]);
        let member = |_| cluster.member_on(kafka.bootstrap_servers(), &tidb.proxied_url());
        let members = (0..N_MEMBERS).map(member).collect();
        let size = Size {
            n_partitions: 24,
            n_apis: 2,
            n_workers: 10,
            n_slots: 64,
            n_older,
        };
        let setup = Setup::of(cluster, members, size);
        let pressure = setup.load(Load {
            pipeline: "work",
            per_second: PER_SECOND,
            data: r#"{"millis": 250}"#,
        });
        let n_tasks = from_environment("SIEGE_TASKS").unwrap_or(N_TASKS);
        let every = from_environment("SIEGE_EVERY").unwrap_or(EVERY_SECONDS);
        Self {
            setup,
            pressure,
            n_tasks: usize::try_from(n_tasks).unwrap(),
            every: Duration::from_secs(every),
            tidb,
            _kafka: kafka,
        }
    }

    /// Does something to one member after the other for as long as tasks are submitted.
    fn harm_in_turn(&mut self, mut harm: impl FnMut(&mut Service, &Pressure, &Tidb)) {
        let mut n_harms: u32 = 0;
        let mut next_at = Instant::now() + self.every;
        while self.pressure.n_accepted() < self.n_tasks {
            std::thread::sleep(Duration::from_millis(100));
            if Instant::now() >= next_at {
                next_at += self.every;
                let i = usize::try_from(n_harms).unwrap() % N_MEMBERS;
                harm(&mut self.setup.members[i], &self.pressure, &self.tidb);
                n_harms += 1;
            }
        }
        println!("{n_harms} times");
        assert!(n_harms > 1, "too few tasks to harm anyone");
    }

    /// Waits until all have ended, and checks that clients can read each of them, with its result.
    fn finish(self) -> History {
        let Self {
            mut setup,
            pressure,
            ..
        } = self;
        setup.members.iter_mut().for_each(Service::ready);
        let start = Instant::now();
        let history = setup.finish(pressure);
        println!("all had ended {:.1} s later", start.elapsed().as_secs_f64());
        let shown = setup.cluster.run(completed(&setup.apis[0]));
        let missing = history.accepted.keys().filter(|id| !shown.contains(id));
        assert_eq!(missing.count(), 0, "a task cannot be read with its result");
        history
    }
}

/// All that is listed as completed with the result that its worker gave.
async fn completed(api: &Service) -> BTreeSet<TaskId> {
    let client = api.client();
    let mut shown = BTreeSet::new();
    let mut page_token = None;
    loop {
        let query = ListTasks {
            states: vec![StateName::Completed],
            limit: 1_000,
            page_token,
            ..ListTasks::default()
        };
        let page = client.list(&path("work"), query).await.unwrap();
        for task in page.tasks {
            assert_eq!(task.result.as_deref(), Some(&b"250"[..]), "{}", task.id);
            assert!(shown.insert(task.id), "{} is listed twice", task.id);
        }
        page_token = page.next_page_token;
        if page_token.is_none() {
            return shown;
        }
    }
}

#[test]
fn members_that_are_killed_in_turn_lose_nothing() {
    let mut siege = Siege::start(0);
    siege.harm_in_turn(|member, pressure, tidb| {
        tidb.proxy().set(SLOW);
        let (n_running, n_unsaved) = wait_until("much is at risk", || {
            let n_running = member.metric("workload_tasks_running");
            let n_unsaved = member.metric("workload_tasks_saving");
            (n_running >= AT_RISK && n_unsaved >= AT_RISK).then_some((n_running, n_unsaved))
        });
        let what = format!("kill with {n_running} leased and {n_unsaved} unsaved");
        pressure.harm(&what, || {
            member.kill();
            tidb.proxy().set(Fault::None);
            member.start();
            member.ready();
        });
    });
    judged(&siege.finish());
}

#[test]
fn members_that_are_replaced_in_turn_repeat_nothing_even_with_older_workers() {
    let mut siege = Siege::start(3);
    siege.harm_in_turn(|member, pressure, _| {
        pressure.harm("a member is replaced", || {
            member.stop();
            member.start();
            member.ready();
        });
    });
    let history = siege.finish();
    let verdict = judged(&history);
    assert_eq!((history.n_refused, history.n_unknown), (0, 0), "submits");
    assert_eq!(verdict.n_again, 0, "nothing ran twice");
}
