//! Faults at random over a cluster with load, and a verdict: `cargo xtask chaos --minutes N --seed S`.
//!
//! Without the servers' own processes (`KAFKA_BOOTSTRAP_SERVERS` and `TIDB_URL` are set) only ours are harmed.

use std::time::{Duration, Instant};

use fastrand::Rng;
use test_servers::{Fault, Kafka, Proxy, Tidb};

use super::{
    cluster::{Cluster, Service},
    history::now,
    setup::{SESSION_SETTING, Setup, Size, from_environment, judged},
    usage::{Usage, disk_kib},
};

const N_MEMBERS: usize = 3;
const N_APIS: usize = 2;
const SIZE: Size = Size {
    n_partitions: 12,
    n_apis: N_APIS,
    n_workers: 5,
    n_slots: 16,
    n_older: 1,
};
const PER_SECOND: u32 = 200;
/// How long it goes on unless `CHAOS_SECONDS` says otherwise.
const SECONDS: u64 = 45;
/// How often it is looked what members and servers take.
const N_LOOKS: u32 = 12;
/// A member takes no more memory than this, however long it goes on.
const RESIDENT_KIB_MAX: u64 = 512 << 10;

/// The servers, if they are ours to break.
struct Servers {
    kafka: Kafka,
    tidb: Tidb,
}

/// Dropped in this order: servers last.
struct Chaos {
    rng: Rng,
    /// The first member reaches the servers through proxies, the others as they are.
    setup: Setup,
    servers: Option<Servers>,
}

#[derive(Debug, Clone, Copy)]
enum Harm {
    KillMember,
    RestartMember,
    FreezeMember,
    FailMember,
    KillApi,
    CutFromKafka,
    CutFromTidb,
    RestartKafka,
    FreezeKafka,
    RestartTidb,
    FreezeTidb,
}

const OURS: [Harm; 5] = [
    Harm::KillMember,
    Harm::RestartMember,
    Harm::FreezeMember,
    Harm::FailMember,
    Harm::KillApi,
];
const OF_SERVERS: [Harm; 6] = [
    Harm::CutFromKafka,
    Harm::CutFromTidb,
    Harm::RestartKafka,
    Harm::FreezeKafka,
    Harm::RestartTidb,
    Harm::FreezeTidb,
];
const POINTS: [&str; 5] = [
    "after_claim",
    "after_fetch",
    "before_flush",
    "after_flush",
    "before_watermark",
];

impl Chaos {
    fn start(seed: u64) -> Self {
        let is_foreign = Kafka::from_environment().is_some() || Tidb::from_environment().is_some();
        let servers = (!is_foreign).then(|| Servers {
            kafka: Kafka::start().unwrap(),
            tidb: Tidb::start().unwrap(),
        });
        let cluster = match &servers {
            Some(servers) => Cluster::on(servers.kafka.bootstrap_servers(), servers.tidb.url()),
            None => Cluster::start(),
        };
        let cluster = cluster.with(&[SESSION_SETTING]);
        let members = (0..N_MEMBERS).map(|i| match &servers {
            Some(servers) if i == 0 => cluster.member_on(
                &servers.kafka.proxied_bootstrap_servers(),
                &servers.tidb.proxied_url(),
            ),
            _ => cluster.member(),
        });
        let members = members.collect();
        Self {
            rng: Rng::with_seed(seed),
            setup: Setup::of(cluster, members, SIZE),
            servers,
        }
    }

    /// Prints what members and servers take.
    fn look(&self, after: Duration, n_accepted: usize) {
        let usage: Usage = self.setup.members.iter().map(Usage::of).sum();
        print!(
            "after {after:.0?}, {n_accepted} accepted: members {} MiB, {} files",
            usage.resident_kib >> 10,
            usage.n_files
        );
        if let Some(Servers { kafka, tidb }) = &self.servers {
            let (kafka, tidb) = (disk_kib(kafka.dir()), disk_kib(tidb.dir()));
            print!(
                "; on disk: Kafka {} MiB, TiDB {} MiB",
                kafka >> 10,
                tidb >> 10
            );
        }
        println!();
    }

    fn pick(&mut self) -> Harm {
        let n = OURS.len()
            + if self.servers.is_some() {
                OF_SERVERS.len()
            } else {
                0
            };
        let i = self.rng.usize(..n);
        OURS.iter().chain(&OF_SERVERS).nth(i).copied().unwrap()
    }

    /// Does it, and mends what can be mended.
    fn harm(&mut self, harm: Harm) -> String {
        let i = self.rng.usize(..N_MEMBERS);
        let pause = Duration::from_millis(self.rng.u64(200..12_000));
        let what = format!("{harm:?}");
        match harm {
            Harm::KillMember => {
                self.setup.members[i].kill();
                std::thread::sleep(pause / 4);
                self.setup.members[i].start();
            }
            Harm::RestartMember => {
                self.setup.members[i].stop();
                self.setup.members[i].start();
            }
            Harm::FreezeMember => {
                self.setup.members[i].signal("STOP");
                std::thread::sleep(pause);
                self.setup.members[i].signal("CONT");
            }
            Harm::FailMember => return self.fail(i),
            Harm::KillApi => {
                let api = &mut self.setup.apis[i % N_APIS];
                api.kill();
                api.start();
                api.ready();
            }
            _ => return self.harm_servers(harm, pause),
        }
        format!("{what} {i}")
    }

    fn fail(&mut self, i: usize) -> String {
        let point = self.rng.choice(POINTS).unwrap();
        let n = self.rng.u32(..20);
        let member = &mut self.setup.members[i];
        member.stop();
        member.start_to_fail(point, n);
        let start = Instant::now();
        let mut died = false;
        while !died && start.elapsed() < Duration::from_secs(15) {
            std::thread::sleep(Duration::from_millis(20));
            died = member.has_died();
        }
        if !died {
            member.kill();
        }
        member.start();
        format!("member {i} dies {point} {n}")
    }

    fn harm_servers(&mut self, harm: Harm, pause: Duration) -> String {
        let fault = self.rng.choice([
            Fault::Cut,
            Fault::BlackHole,
            Fault::HalfOpen,
            Fault::Latency(Duration::from_millis(300)),
            Fault::Throttle(20_000),
        ]);
        let fault = fault.unwrap();
        let Servers { kafka, tidb } = self.servers.as_mut().unwrap();
        let broken = |proxy: &Proxy| {
            proxy.set(fault);
            std::thread::sleep(pause);
            proxy.set(Fault::None);
            format!("{fault:?}")
        };
        let how = match harm {
            Harm::CutFromKafka => broken(kafka.proxy()),
            Harm::CutFromTidb => broken(tidb.proxy()),
            Harm::RestartKafka => {
                kafka.kill().unwrap();
                kafka.restart().unwrap();
                String::new()
            }
            Harm::RestartTidb => {
                tidb.kill().unwrap();
                tidb.restart().unwrap();
                String::new()
            }
            Harm::FreezeKafka => {
                kafka.signal("STOP").unwrap();
                std::thread::sleep(pause / 2);
                kafka.signal("CONT").unwrap();
                String::new()
            }
            _ => {
                tidb.signal("STOP").unwrap();
                std::thread::sleep(pause / 2);
                tidb.signal("CONT").unwrap();
                String::new()
            }
        };
        format!("{harm:?} {how}")
    }
}

#[test]
fn faults_at_random_break_no_promise() {
    let seed = from_environment("CHAOS_SEED").unwrap_or_else(|| fastrand::u64(..));
    let length = Duration::from_secs(from_environment("CHAOS_SECONDS").unwrap_or(SECONDS));
    println!("seed {seed}, for {length:?}");
    let mut chaos = Chaos::start(seed);
    let pressure = chaos.setup.pressure(PER_SECOND);
    let start = Instant::now();
    let mut look_at = start;
    while start.elapsed() < length {
        if Instant::now() >= look_at {
            look_at += length / N_LOOKS;
            chaos.look(start.elapsed(), pressure.n_accepted());
        }
        let pause = chaos.rng.u64(500..5_000);
        std::thread::sleep(Duration::from_millis(pause));
        let from = now();
        let harm = chaos.pick();
        let what = chaos.harm(harm);
        pressure.harmed(&what, from);
    }
    let setup = &mut chaos.setup;
    let services = setup.members.iter_mut().chain(&mut setup.apis);
    services.for_each(Service::ready);
    let history = setup.finish(pressure);
    chaos.look(start.elapsed(), history.accepted.len());
    judged(&history);
    for member in &chaos.setup.members {
        let usage = Usage::of(member);
        assert!(usage.resident_kib < RESIDENT_KIB_MAX && usage.n_files < 1_000);
    }
}
