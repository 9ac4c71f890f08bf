//! Clusters of several members with APIs and workers, ready for a load.

use std::time::Duration;

use test_servers::{Kafka, Tidb};

use super::{
    cluster::{Cluster, Service, path, spec},
    history::{History, Verdict},
    load::TestWorker,
    pressure::{Load, Pressure},
};
use crate::fixture::wait_until;

/// Kafka's session of a member.
pub(crate) const SESSION: Duration = Duration::from_secs(6);
pub(crate) const SESSION_SETTING: &str = "kafka.session_timeout=6s";
/// A harm may show so long after it: a session, an adoption window and a lease.
pub(crate) const REACH: Duration = Duration::from_secs(6 + 3 + 5);

/// What there is beside the members.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) n_partitions: u16,
    pub(crate) n_apis: usize,
    pub(crate) n_workers: usize,
    /// Of each worker.
    pub(crate) n_slots: u32,
    /// So many of the workers know no streams, as those before there were any.
    pub(crate) n_older: usize,
}

impl Default for Size {
    fn default() -> Self {
        Self {
            n_partitions: 12,
            n_apis: 1,
            n_workers: 4,
            n_slots: 16,
            n_older: 0,
        }
    }
}

/// Members, APIs and workers that know all members, and the pipeline `work`.
pub(crate) struct Setup {
    pub(crate) workers: Vec<TestWorker>,
    pub(crate) members: Vec<Service>,
    pub(crate) apis: Vec<Service>,
    pub(crate) cluster: Cluster,
}

impl Setup {
    /// So many members on the servers that all tests share.
    pub(crate) fn start(n_members: usize, size: Size) -> Self {
        let cluster = Cluster::start().with(&[
            SESSION_SETTING,
            // So that there is something to trim.
            "scheduler.trim_after=2s",
        ]);
        let members = (0..n_members).map(|_| cluster.member()).collect();
        Self::of(cluster, members, size)
    }

    /// Adds APIs and workers to the members of a cluster, and a pipeline whose shards all have an owner.
    pub(crate) fn of(cluster: Cluster, mut members: Vec<Service>, size: Size) -> Self {
        let mut apis: Vec<_> = (0..size.n_apis).map(|_| cluster.api()).collect();
        members.iter_mut().chain(&mut apis).for_each(Service::ready);
        let spec = spec(size.n_partitions);
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
            (n_owned == i64::from(size.n_partitions)).then_some(())
        });
        let workers = (0..size.n_workers)
            .map(|i| {
                // Each at another member, and at the next if that one is away.
                let (before, from) = members.split_at(i % members.len());
                let order = from.iter().chain(before);
                let endpoints: Vec<_> = order.map(|member| member.grpc.clone()).collect();
                let notes = cluster.home().join(format!("work-{i}.notes"));
                let start = if i < size.n_older {
                    TestWorker::start_older
                } else {
                    TestWorker::start
                };
                start(&endpoints.join(","), "work", notes, size.n_slots)
            })
            .collect();
        Self {
            workers,
            members,
            apis,
            cluster,
        }
    }

    /// Tasks that take no time, so many a second.
    pub(crate) fn pressure(&self, per_second: u32) -> Pressure {
        self.load(Load {
            pipeline: "work",
            per_second,
            data: "{}",
        })
    }

    pub(crate) fn load(&self, load: Load) -> Pressure {
        let apis: Vec<_> = self.apis.iter().collect();
        Pressure::start(&self.cluster, &apis, load)
    }

    pub(crate) fn finish(&self, pressure: Pressure) -> History {
        pressure.finish(&self.cluster, &self.workers)
    }

    /// Waits until so many more tasks are accepted.
    pub(crate) fn go_on(&self, pressure: &Pressure, n: usize) {
        let goal = pressure.n_accepted() + n;
        wait_until("more tasks are accepted", || {
            (pressure.n_accepted() >= goal).then_some(())
        });
    }
}

/// Two members, of which the first reaches servers of its own through their proxies. Dropped in this order: servers last.
pub(crate) struct Linked {
    pub(crate) setup: Setup,
    pub(crate) kafka: Kafka,
    pub(crate) tidb: Tidb,
}

impl Linked {
    /// With more settings.
    pub(crate) fn start(settings: &[&str], size: Size) -> Self {
        let (kafka, tidb) = (Kafka::start().unwrap(), Tidb::start().unwrap());
        let cluster = Cluster::on(kafka.bootstrap_servers(), tidb.url())
            .with(&[SESSION_SETTING])
            .with(settings);
        let linked = cluster.member_on(&kafka.proxied_bootstrap_servers(), &tidb.proxied_url());
        let members = vec![linked, cluster.member()];
        Self {
            setup: Setup::of(cluster, members, size),
            kafka,
            tidb,
        }
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

/// A number from the environment, for who wants more than the checks need.
pub(crate) fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} must be a number")),
    )
}
