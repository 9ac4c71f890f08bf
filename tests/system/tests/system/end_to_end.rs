//! What a user does first.

use serde_json::{Value, json};

use crate::fixture::{Dev, data_in, wait_until};

fn stdout_of(task: &Value) -> &str {
    task["result"]["steps"][0]["commands"][0]["stdout"]
        .as_str()
        .unwrap_or_else(|| panic!("no output: {task:#}"))
}

#[test]
fn a_task_runs_its_steps_and_is_still_there_after_a_restart() {
    let home = tempfile::tempdir().unwrap();
    let dev = Dev::start(&data_in(&home));
    dev.create(
        "hello",
        json!([{"executor": "any", "commands": ["echo hello {{name}}"]}]),
        json!({}),
    );
    let id = dev.submit("hello", &json!({"name": "you"}));
    let task = dev.ended(&id);
    assert_eq!(
        (task["state"].as_str(), stdout_of(&task)),
        (Some("completed"), "hello you\n")
    );
    dev.stop();
    let dev = Dev::start(&data_in(&home));
    assert_eq!(dev.task(&id), task, "nothing that was shown changes");
    let listed = dev
        .get("/api/applications/app/pipelines/hello/tasks?state=completed")
        .body;
    assert_eq!(listed["tasks"][0]["id"], task["id"]);
    assert_eq!(listed["backlog"], 0);
}

#[test]
fn any_value_is_exactly_one_argument() {
    let home = tempfile::tempdir().unwrap();
    let dev = Dev::start(&data_in(&home));
    let steps = json!([{"executor": "any", "commands": ["printf [%s] before {{value}} after"]}]);
    dev.create("args", steps, json!({}));
    let values = [
        "a b",
        "'",
        "\"",
        "$(id)",
        "`id`",
        "; id",
        "a\nb",
        "-rf",
        "--help",
        "{{value}}",
        "\\",
        "*",
        "",
        "é",
        "/mnt/pipe/kept",
    ];
    let ids: Vec<_> = values
        .iter()
        .map(|value| dev.submit("args", &json!({"value": value})))
        .collect();
    for (value, id) in values.iter().zip(ids) {
        assert_eq!(
            stdout_of(&dev.ended(&id)),
            format!("[before][{value}][after]")
        );
    }
}

#[test]
fn the_shared_path_is_a_directory_of_each_task() {
    let home = tempfile::tempdir().unwrap();
    let dev = Dev::start(&data_in(&home));
    let steps = json!([
        {"executor": "one", "commands": ["sh -c 'echo \"$1\" > /mnt/pipe/file' sh {{n}}"]},
        {"executor": "two", "commands": ["sleep 0.05", "cat /mnt/pipe/file"]}]);
    dev.create("shared", steps, json!({}));
    let ids: Vec<_> = (0..20)
        .map(|n| (n, dev.submit("shared", &json!({"n": n}))))
        .collect();
    for (n, id) in ids {
        let task = dev.ended(&id);
        assert_eq!(
            task["result"]["steps"][1]["commands"][1]["stdout"],
            format!("{n}\n")
        );
    }
    assert!(
        !std::path::Path::new("/mnt/pipe/file").exists(),
        "the template's own path is not touched"
    );
}

#[test]
fn a_failing_task_keeps_its_errors_with_their_output() {
    let home = tempfile::tempdir().unwrap();
    let dev = Dev::start(&data_in(&home));
    let steps = json!([{"executor": "any", "commands": ["ls /there/is/no/such/file"]}]);
    dev.create(
        "fails",
        steps,
        json!({"retry": {"max_attempts": 2, "initial": "10ms"}}),
    );
    let id = dev.submit("fails", &json!({}));
    let task = dev.ended(&id);
    assert_eq!(task["state"], "discarded");
    assert_eq!(task["errors"].as_array().unwrap().len(), 2);
    let shown = task["errors"][1]["detail"].to_string();
    assert!(shown.contains("No such file"), "{task:#}");
}

#[test]
fn cancelling_a_running_task_kills_all_its_processes() {
    let home = tempfile::tempdir().unwrap();
    let dev = Dev::start(&data_in(&home));
    let marker = format!("7{}", fastrand::u32(1_000_000..9_999_999));
    let script = format!("sh -c 'sleep {marker} & setsid sleep {marker} & wait'");
    dev.create(
        "long",
        json!([{"executor": "any", "commands": [script]}]),
        json!({}),
    );
    let id = dev.submit("long", &json!({}));
    let n_alive = || {
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let lines =
            processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
        lines
            .filter(|line| line.starts_with(format!("sleep\0{marker}").as_bytes()))
            .count()
    };
    wait_until("both sleepers run", || (n_alive() == 2).then_some(()));
    wait_until("its step is shown", || {
        (!dev.task(&id)["progress"].is_null()).then_some(())
    });
    let start = std::time::Instant::now();
    let cancelled = dev.post(
        &format!("/api/applications/app/tasks/{id}/cancel"),
        &Value::Null,
    );
    assert_eq!(cancelled.body["state"], "cancelled");
    wait_until("they are gone", || (n_alive() == 0).then_some(()));
    assert!(
        start.elapsed().as_secs_f64() < 3.0,
        "took {:?}",
        start.elapsed()
    );
    let again = dev.post(
        &format!("/api/applications/app/tasks/{id}/cancel"),
        &Value::Null,
    );
    assert_eq!(again.status, 200, "cancelling again is no fault");
}

#[test]
fn racing_submits_with_one_key_are_one_task() {
    let home = tempfile::tempdir().unwrap();
    let dev = Dev::start(&data_in(&home));
    dev.create(
        "once",
        json!([{"executor": "any", "commands": ["true"]}]),
        json!({}),
    );
    let path = "/api/applications/app/pipelines/once";
    let key = [("Idempotency-Key", "k1")];
    let ids: std::collections::BTreeSet<_> = std::thread::scope(|scope| {
        let submit = || {
            dev.post_with(path, &key, r#"{"n":1}"#).body["id"]
                .as_str()
                .unwrap()
                .to_owned()
        };
        let racing: Vec<_> = (0..20).map(|_| scope.spawn(submit)).collect();
        racing
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert_eq!(ids.len(), 1);
    let other = dev.post_with(path, &key, r#"{"n":2}"#);
    assert_eq!(other.status, 422);
    assert_eq!(other.body["type"], "urn:workload:problem:key-reused");
    dev.ended(ids.first().unwrap());
    let listed = dev.get("/api/applications/app/pipelines/once/tasks").body;
    assert_eq!(listed["tasks"].as_array().unwrap().len(), 1);
}

#[test]
fn a_second_process_is_told_who_has_the_directory() {
    let home = tempfile::tempdir().unwrap();
    let dev = Dev::start(&data_in(&home));
    let second = std::process::Command::new(crate::fixture::binary("workload"))
        .args([
            "dev",
            "--http",
            "127.0.0.1:0",
            "--grpc",
            "127.0.0.1:0",
            "--data",
        ])
        .arg(data_in(&home))
        .output()
        .unwrap();
    assert!(!second.status.success());
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains(&dev.pid().to_string()), "{said}");
}
