//! Bulk cancels from the command line: whatever a task does, it ends; later ones are not meant; a kill stops nothing.

use serde_json::{Value, json};

use crate::fixture::{Dev, data_in, wait_until};

fn group(name: &str) -> Value {
    json!({"group": name})
}

#[test]
fn a_bulk_cancel_ends_all_that_fit_also_over_a_kill() {
    let home = tempfile::tempdir().unwrap();
    let data = data_in(&home);
    let mut dev = Dev::start(&data);
    let steps = json!([{"executor": "e", "commands": ["sleep 600"]}]);
    dev.create("p", steps, json!({}));
    let tasks = "/api/applications/app/pipelines/p/tasks";
    let submit = |dev: &Dev, options: &Value| {
        let answer = dev.post(tasks, &json!({"data": {}, "options": options}));
        assert_eq!(answer.status, 202);
        answer.body["id"].as_str().unwrap().to_owned()
    };
    let running = submit(&dev, &group("a"));
    wait_until("it runs", || {
        (dev.task(&running)["state"] == "running").then_some(())
    });
    let mut meant: Vec<_> = (0..50).map(|_| submit(&dev, &group("a"))).collect();
    meant.push(submit(&dev, &json!({"group": "a", "delay": "1h"})));
    let kept = submit(&dev, &json!({"group": "b", "delay": "1h"}));
    meant.push(running);

    let many = ["task", "cancel-many", "app", "p"];
    let (code, _) = dev.cli(&many);
    assert_eq!(code, Some(1), "all are meant only if that is said");
    let count = [&many[..], &["--group", "a", "--dry-run"]].concat();
    let (code, printed) = dev.cli(&count);
    let found: Value = serde_json::from_str(&printed).unwrap();
    let n_found: u64 = found["found"]
        .as_object()
        .unwrap()
        .values()
        .filter_map(Value::as_u64)
        .sum();
    let n_backlog = found["backlog_max"].as_u64().unwrap();
    assert_eq!((code, n_found + n_backlog), (Some(0), 52), "{printed}");

    let asked = json!({"filter": group("a"), "id": "wrong-order"});
    let accepted = dev.post(&format!("{tasks}/cancel"), &asked);
    assert!([200, 202].contains(&accepted.status), "{}", accepted.body);
    let later = submit(&dev, &json!({"group": "a", "delay": "1h"}));
    dev.kill();
    dev = Dev::start(&data);
    let go_on = [&many[..], &["--group", "a", "--id", "wrong-order"]].concat();
    let (code, printed) = dev.cli(&go_on);
    let done: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(
        (code, &done["cancelled"], &done["over"]),
        (Some(0), &json!(52), &json!(true)),
        "{printed}"
    );
    for id in &meant {
        assert_eq!(dev.task(id)["state"], "cancelled");
    }
    for id in [&kept, &later] {
        assert_eq!(dev.task(id)["state"], "scheduled");
    }
    let other = json!({"filter": group("b"), "id": "wrong-order"});
    assert_eq!(dev.post(&format!("{tasks}/cancel"), &other).status, 409);
    let ended = json!({"filter": {"states": ["completed"]}});
    let refused = dev.post(&format!("{tasks}/cancel"), &ended);
    assert_eq!(
        (refused.status, &refused.body["field"]),
        (422, &json!("filter.states"))
    );
}
