//! Reads over shards, workers and members, and event streams.

use std::io::{BufRead as _, BufReader};

use serde_json::{Value, json};

use crate::fixture::{Dev, Http, PATIENCE, data_in, wait_until};

const PIPELINE: &str = "/api/applications/app/pipelines/slow";

/// One server-sent event.
#[derive(Debug)]
struct Event {
    name: String,
    id: String,
    data: Value,
}

/// An open event stream.
struct Events(Box<dyn Iterator<Item = String>>);

impl Events {
    /// Opens a stream; its status if there is none.
    fn open(api: &Http, path: &str, last_id: Option<&str>) -> Result<Self, u16> {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(PATIENCE))
            .build()
            .new_agent();
        let mut request = agent.get(format!("{}{path}", api.http));
        if let Some(id) = last_id {
            request = request.header("last-event-id", id);
        }
        let response = request.call().unwrap();
        let status = response.status().as_u16();
        if status != 200 {
            return Err(status);
        }
        let media_type = response.headers()["content-type"].to_str().unwrap();
        assert_eq!(media_type, "text/event-stream");
        let lines = BufReader::new(response.into_body().into_reader()).lines();
        Ok(Self(Box::new(lines.map_while(Result::ok))))
    }
}

impl Iterator for Events {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        let (mut name, mut id, mut data) = (String::new(), String::new(), String::new());
        for line in self.0.by_ref() {
            match line.split_once(": ") {
                Some(("event", value)) => name = value.to_owned(),
                Some(("id", value)) => id = value.to_owned(),
                Some(("data", value)) => data.push_str(value),
                _ if line.is_empty() && !name.is_empty() => {
                    let data = serde_json::from_str(&data).unwrap();
                    return Some(Event { name, id, data });
                }
                // Comments, and when to come again.
                _ => {}
            }
        }
        None
    }
}

fn slow(dev: &Dev) {
    let script = "sh -c 'for i in 1 2 3; do echo line $i; sleep 0.5; done'";
    let steps = json!([{"executor": "any", "commands": [script]}]);
    dev.create("slow", steps, json!({"partitions": 2}));
}

#[test]
fn a_task_is_followed_with_its_output_and_its_end_comes_once() {
    let home = tempfile::tempdir().unwrap();
    let dev = Dev::start(&data_in(&home));
    slow(&dev);
    // As a client on another system may write it: what is shown stays one line.
    let submitted = dev.post_text(PIPELINE, "{\r\n  \"n\": 1\r\n}");
    assert_eq!(submitted.status, 202, "{:#}", submitted.body);
    let id = submitted.body["id"].as_str().unwrap();
    let path = format!("/api/applications/app/tasks/{id}/events");
    let events: Vec<_> = Events::open(&dev, &path, None).ok().unwrap().collect();
    assert!(events.iter().all(|event| event.name == "task"));
    let stdout = |event: &Event| {
        let steps = &event.data["progress"]["steps"][0]["commands"][0]["stdout"];
        steps.as_str().map(ToOwned::to_owned)
    };
    let outputs: Vec<_> = events.iter().filter_map(stdout).collect();
    assert!(outputs.len() > 1, "output comes while it runs: {events:#?}");
    assert!(outputs.is_sorted(), "{outputs:?}");
    let last = events.last().unwrap();
    assert_eq!(last.data, dev.task(id), "the end is what a get shows");
    assert_eq!(last.data["state"], "completed");
    let ends = events
        .iter()
        .filter(|event| event.data["ended_at"].is_string());
    assert_eq!(ends.count(), 1);
    // Who has seen the end is told so, and who has seen less is shown it.
    assert_eq!(Events::open(&dev, &path, Some(&last.id)).err(), Some(204));
    let before = &events[events.len() - 2].id;
    let rest: Vec<_> = Events::open(&dev, &path, Some(before))
        .ok()
        .unwrap()
        .collect();
    assert_eq!((rest.len(), &rest[0].data), (1, &last.data));
    let foreign = format!("/api/applications/other/tasks/{id}/events");
    assert_eq!(Events::open(&dev, &foreign, None).err(), Some(404));
    dev.stop();
}

#[test]
fn a_pipeline_is_followed_and_streams_end_with_the_server() {
    let home = tempfile::tempdir().unwrap();
    let dev = Dev::start(&data_in(&home));
    slow(&dev);
    let path = format!("{PIPELINE}/events");
    let mut events = Events::open(&dev, &path, None).ok().unwrap();
    assert_eq!(events.next().unwrap().name, "stats");
    let id = dev.submit("slow", &json!({}));
    let (mut states, mut stats) = (Vec::new(), Value::Null);
    while states.last().is_none_or(|state| state != "completed") {
        let event = events.next().unwrap();
        if event.name == "stats" {
            stats = event.data;
            continue;
        }
        assert_eq!(
            (event.name.as_str(), &event.data["missed"]),
            ("changes", &json!(0))
        );
        for change in event.data["changes"].as_array().unwrap() {
            assert_eq!(change["id"], id.as_str());
            states.push(change["state"].as_str().unwrap().to_owned());
        }
    }
    // What changed more than once within a second may be told as it then was.
    let mut all = ["available", "running", "completed"].iter();
    assert!(
        states.iter().all(|state| all.any(|one| one == state)),
        "{states:?}"
    );
    // Which of the two says it first is left open.
    while stats["totals"]["completed"] != 1 {
        let event = events.next().unwrap();
        assert_eq!(event.name, "stats");
        stats = event.data;
    }
    assert_eq!(
        Events::open(&dev, "/api/applications/app/pipelines/no/events", None).err(),
        Some(404)
    );
    // An open stream does not hold up the end.
    dev.stop();
    assert!(events.next().is_none());
}

#[test]
fn shards_workers_members_and_stats_tell_what_goes_on() {
    let home = tempfile::tempdir().unwrap();
    let dev = Dev::start(&data_in(&home));
    slow(&dev);
    let id = dev.submit("slow", &json!({}));
    let busy = wait_until("a worker has it", || {
        let workers = dev.get(&format!("{PIPELINE}/workers")).body;
        let busy = workers["workers"]
            .as_array()?
            .iter()
            .find(|worker| worker["leases"] == 1);
        busy.cloned()
    });
    assert_eq!(busy["slots"], 1);
    assert_eq!(
        busy["member"].as_str(),
        Some(dev.grpc.trim_start_matches("http://"))
    );
    let shards = dev.get(&format!("{PIPELINE}/shards")).body;
    let shards = shards["shards"].as_array().unwrap();
    assert_eq!(shards.len(), 2);
    assert!(
        shards.iter().all(|shard| shard["status"] == "working"),
        "{shards:#?}"
    );
    dev.ended(&id);
    let stats = dev.get(&format!("{PIPELINE}/stats")).body;
    assert_eq!(stats["totals"]["completed"], 1, "{stats:#}");
    assert_eq!(
        (&stats["run"]["count"], &stats["absent"]),
        (&json!(1), &json!(0))
    );
    assert!(
        stats["run"]["p50_ms"].as_u64().unwrap() >= 1_000,
        "{stats:#}"
    );
    let members = dev.get("/api/members").body;
    assert_eq!(members["members"][0]["shards"], 2, "{members:#}");
    assert_eq!(members["members"][0]["ready"], true);
    for path in ["stats", "shards", "workers"] {
        let refused = dev.get(&format!("/api/applications/app/pipelines/no/{path}"));
        assert_eq!(refused.status, 404);
        let refused = dev.get(&format!("{PIPELINE}/{path}?x=1"));
        assert_eq!(refused.status, 400);
    }
}
