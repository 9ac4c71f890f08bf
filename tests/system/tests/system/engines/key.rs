//! Tasks with one ordering key while TiDB is away for everyone: the next waits for the durable end of the one before.

use std::{
    io::BufRead as _,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use scheduler_core::TaskId;
use serde_json::json;
use test_servers::{Fault, Kafka, Tidb};

use super::{
    cluster::Cluster,
    history::Run,
    setup::{SESSION_SETTING, Setup, Size},
};
use crate::fixture::{Http, wait_until};

/// How long TiDB is away after the first task was reported.
const AWAY: Duration = Duration::from_secs(12);

fn runs(setup: &Setup) -> Vec<Run> {
    let notes = setup.workers.iter().map(|worker| &worker.notes);
    let notes = notes.map(|notes| std::fs::read_to_string(notes).unwrap_or_default());
    let notes: Vec<_> = notes.collect();
    let lines = notes.iter().flat_map(|notes| notes.lines());
    lines.filter_map(Run::read).collect()
}

fn n_runs(setup: &Setup, id: &str) -> usize {
    let id: TaskId = id.parse().unwrap();
    runs(setup).iter().filter(|run| run.id == id).count()
}

/// The events of a task, as they come.
struct Followed(Arc<Mutex<String>>);

impl Followed {
    fn start(http: &Http, id: &str) -> Self {
        let path = format!("/api/applications/app/tasks/{id}/events");
        let (http, all) = (http.clone(), Arc::new(Mutex::new(String::new())));
        let read = Arc::downgrade(&all);
        // As a browser does, it comes again when a stream has ended, until nobody asks any more.
        std::thread::spawn(move || {
            while let Some(all) = read.upgrade() {
                let events = http.events(&path).into_iter();
                for line in events.flat_map(|events| events.lines().map_while(Result::ok)) {
                    all.lock().unwrap().push_str(&line);
                }
                drop(all);
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        Self(all)
    }

    fn says(&self, text: &str) -> bool {
        self.0.lock().unwrap().contains(text)
    }

    fn says_completed(&self) -> bool {
        self.says(r#""state":"completed""#)
    }
}

/// Does it again and again, and tells how often.
fn n_times(until: Instant, mut act: impl FnMut()) -> usize {
    let mut n = 0;
    while Instant::now() < until {
        act();
        n += 1;
        std::thread::sleep(Duration::from_millis(50));
    }
    n
}

#[test]
fn the_next_of_a_key_waits_for_a_durable_end_also_when_the_owner_dies_before_it() {
    let (kafka, tidb) = (Kafka::start().unwrap(), Tidb::start().unwrap());
    let cluster =
        Cluster::on(kafka.bootstrap_servers(), &tidb.proxied_url()).with(&[SESSION_SETTING]);
    let members = vec![cluster.member(), cluster.member()];
    let mut setup = Setup::of(cluster, members, Size::default());
    let submit = |setup: &Setup, query: &str, millis: u64| {
        let path = format!("/api/applications/app/pipelines/work{query}");
        let answer = setup.apis[0].post(&path, &json!({"millis": millis}));
        assert_eq!(answer.status, 202, "{answer:?}");
        answer.body["id"].as_str().unwrap().to_owned()
    };
    let first = submit(&setup, "?key=k", 2_000);
    let next = submit(&setup, "?key=k", 0);
    wait_until("the first runs", || {
        (n_runs(&setup, &first) == 1).then_some(())
    });
    let partition = first.parse::<TaskId>().unwrap().shard.partition.0;
    let owns = |member| setup.cluster.partitions_of(member).contains(&partition);
    let owner = setup.members.iter().position(owns).unwrap();

    let followed = Followed::start(&setup.apis[0], &first);
    wait_until("it is followed", || {
        followed.says(r#""state":"running""#).then_some(())
    });
    tidb.proxy().set(Fault::BlackHole);
    let http = &*setup.apis[0];
    // Its worker is done with it in a moment, and reports it as often as it takes.
    let until = Instant::now() + AWAY;
    let mut others = Vec::new();
    let (n_seen, n_listed) = std::thread::scope(|scope| {
        let first_path = format!("/api/applications/app/tasks/{first}");
        let seen = scope.spawn(move || {
            n_times(until, || {
                let seen = http.get(&first_path);
                assert_ne!(seen.body["state"], "completed", "its end is not durable");
            })
        });
        let listed = scope.spawn(move || {
            n_times(until, || {
                let listed = http.get("/api/applications/app/pipelines/work/tasks");
                let listed = listed.body.to_string();
                assert!(!listed.contains("completed"), "{listed}");
            })
        });
        n_times(until, || {
            assert_eq!(
                n_runs(&setup, &next),
                0,
                "it started before the end was durable"
            );
            others.push(submit(&setup, "", 0));
        });
        (seen.join().unwrap(), listed.join().unwrap())
    });
    println!("seen {n_seen} times, listed {n_listed} times");
    assert!(!followed.says_completed(), "a follower is told too early");
    let n_others = others.iter().filter(|id| n_runs(&setup, id) > 0).count();
    println!("{n_others} of {} others ran meanwhile", others.len());
    assert!(n_others > others.len() / 2, "workers take other tasks");

    setup.members[owner].kill();
    tidb.proxy().set(Fault::None);
    let next_task = setup.apis[0].ended(&next);
    let first_task = setup.apis[0].ended(&first);
    assert_eq!(
        (&first_task["state"], &next_task["state"]),
        (&json!("completed"), &json!("completed"))
    );
    wait_until("the follower is told", || {
        followed.says_completed().then_some(())
    });
    let ended_at = first_task["ended_at"].as_str().unwrap();
    let started_at = next_task["started_at"].as_str().unwrap();
    println!("the first ended at {ended_at}, the next started at {started_at}");
    assert!(ended_at <= started_at);
    assert_eq!((n_runs(&setup, &first), n_runs(&setup, &next)), (1, 1));
    for id in &others {
        assert_eq!(setup.apis[0].ended(id)["state"], "completed");
    }
}
