//! A pipeline is deleted while other processes submit, and while the one that deletes it is killed.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use serde_json::json;

use super::{
    cluster::{Cluster, Service, path, spec},
    load::{TestWorker, workers},
};
use crate::fixture::{Answer, wait_until};

const PIPELINE: &str = "/api/applications/app/pipelines/work";
/// So that the pipeline has nothing to do now and then, and submits are on their way all the time.
const PAUSE: Duration = Duration::from_millis(30);
/// Accepted tasks before the first try to delete.
const N_BEFORE: usize = 30;

/// Dropped in this order.
struct Running {
    worker: TestWorker,
    apis: [Service; 3],
    member: Service,
    cluster: Cluster,
}

fn start(settings: &[&str]) -> Running {
    let cluster = Cluster::start().with(settings);
    let mut member = cluster.member();
    let mut apis = [cluster.api(), cluster.api(), cluster.api()];
    member.ready();
    apis.iter_mut().for_each(Service::ready);
    let created = cluster.run(apis[0].client().create_pipeline(&path("work"), &spec(4)));
    created.unwrap();
    for api in &apis {
        wait_until("every API knows it", || {
            (api.get(PIPELINE).status == 200).then_some(())
        });
    }
    let worker = workers(&cluster, &member, "work", 1).remove(0);
    Running {
        worker,
        apis,
        member,
        cluster,
    }
}

/// Submits until it is refused for good; what was accepted.
fn submit_until_refused(api: &Service, n_accepted: &AtomicUsize) -> (Vec<String>, Answer) {
    let mut ids = Vec::new();
    loop {
        // Each second one goes through the owner of its shard.
        let key = format!("{}-{}", api.pid(), ids.len());
        let headers = [("idempotency-key", key.as_str())];
        let headers = if ids.len() % 2 == 0 {
            &headers[..]
        } else {
            &[]
        };
        let answer = api.post_with(PIPELINE, headers, "{}");
        match answer.status {
            202 => {
                ids.push(answer.body["id"].as_str().unwrap().to_owned());
                n_accepted.fetch_add(1, Ordering::Relaxed);
            }
            404 | 409 => return (ids, answer),
            // Not accepted, or nobody knows: it is no promise.
            _ => {}
        }
        std::thread::sleep(PAUSE);
    }
}

impl Running {
    /// Submits by two APIs while `delete` deletes by the third; what was accepted.
    fn submit_while(&self, delete: impl FnOnce(&Service)) -> BTreeSet<String> {
        let n_accepted = AtomicUsize::new(0);
        let [one, other, third] = &self.apis;
        std::thread::scope(|scope| {
            let submitting =
                [one, other].map(|api| scope.spawn(|| submit_until_refused(api, &n_accepted)));
            wait_until("tasks were accepted", || {
                (n_accepted.load(Ordering::Relaxed) > N_BEFORE).then_some(())
            });
            delete(third);
            let mut accepted = BTreeSet::new();
            for submitter in submitting {
                let (ids, refused) = submitter.join().unwrap();
                println!("{} accepted, then {}", ids.len(), refused.body);
                accepted.extend(ids);
            }
            accepted
        })
    }

    /// Nothing of it is left, everything that was accepted ran, and its name serves another one.
    fn check(&self, number: u64, accepted: &BTreeSet<String>) {
        for api in &self.apis[..2] {
            wait_until("nobody knows it any more", || {
                (api.get(PIPELINE).status == 404).then_some(())
            });
        }
        let runs = self.worker.runs();
        let lost: Vec<_> = accepted
            .iter()
            .filter(|id| !runs.contains_key(*id))
            .collect();
        assert_eq!(lost, Vec::<&String>::new(), "accepted and never run");
        assert!(runs.values().all(|n| *n == 1), "nothing ran again");
        for table in [
            "shard",
            "task",
            "completed_task",
            "done",
            "idempotency_key",
            "pipeline",
        ] {
            let column = if table == "pipeline" {
                "number"
            } else {
                "pipeline"
            };
            let count = format!("SELECT COUNT(*) FROM {table} WHERE {column} = {number}");
            assert_eq!(self.cluster.number(&count), 0, "{table}");
        }
        let kafka = test_servers::kafka();
        let list = ["--bootstrap-server", kafka.bootstrap_servers(), "--list"];
        let topics = kafka
            .tool("org.apache.kafka.tools.TopicCommand", &list)
            .unwrap();
        let topic = format!("{}.default.app.work", self.cluster.name());
        assert!(!topics.lines().any(|line| line == topic), "{topics}");

        let api = &self.apis[0];
        let created = self
            .cluster
            .run(api.client().create_pipeline(&path("work"), &spec(4)));
        assert_ne!(u64::from(created.unwrap().number.0), number);
        let tasks = api.get(&format!("{PIPELINE}/tasks")).body;
        assert_eq!(
            (&tasks["tasks"], &tasks["backlog"]),
            (&json!([]), &json!(0))
        );
        let notes = self.cluster.home().join("again.notes");
        let worker = TestWorker::start(&self.member.grpc, "work", notes, 1);
        let id = api.submit("work", &json!({}));
        let task = api.ended(&id);
        assert_eq!(task["state"], "completed", "{task:#}");
        let n_ran = worker.runs().len() + self.worker.runs().len() - runs.len();
        assert_eq!(n_ran, 1, "no old task runs in the new pipeline");
    }

    fn number(&self) -> u64 {
        self.apis[0].get(PIPELINE).body["number"].as_u64().unwrap()
    }
}

#[test]
fn every_task_accepted_while_its_pipeline_is_deleted_runs_first() {
    let running = start(&[]);
    let number = running.number();
    let accepted = running.submit_while(|api| {
        // Refused as long as a task has not ended.
        let deleted = wait_until("it is idle for a moment", || {
            let answer = api.delete(PIPELINE);
            assert!([202, 204, 409].contains(&answer.status), "{answer:?}");
            (answer.status != 409).then_some(answer)
        });
        if deleted.status == 202 {
            assert_eq!(deleted.body["state"], "deleting");
        }
        println!("deleted with {}", deleted.status);
    });
    assert!(accepted.len() > N_BEFORE);
    running.check(number, &accepted);
}

#[test]
fn a_deletion_whose_process_is_killed_is_finished_by_the_members() {
    // So long that the kill comes before the member hears of it.
    let mut running = start(&["tidb.poll_interval=2s"]);
    let number = running.number();
    let api = &running.apis[2];
    let pid = api.pid();
    let accepted = running.submit_while(|api| {
        std::thread::scope(|scope| {
            let deleting = scope.spawn(|| {
                loop {
                    let answer = api.delete(PIPELINE);
                    if answer.status != 409 {
                        return answer;
                    }
                }
            });
            let is_deleting = "SELECT COUNT(*) FROM pipeline WHERE mode = 'deleting'";
            wait_until("it is marked", || {
                (running.cluster.number(is_deleting) == 1).then_some(())
            });
            crate::fixture::signal(pid, "KILL");
            let answer = deleting.join().unwrap();
            assert_eq!(
                answer.status, 0,
                "it was killed before it answered: {answer:?}"
            );
        });
    });
    running.check(number, &accepted);
    // It starts again into a world without it.
    let api = &mut running.apis[2];
    api.kill();
    api.start();
    api.ready();
}
