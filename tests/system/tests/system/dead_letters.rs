//! Dead letters from the command line: they run again in stages, and not while their fault is still there.

use serde_json::{Value, json};

use crate::fixture::{Dev, data_in};

const N: usize = 30;

fn last_line(printed: &str) -> Value {
    serde_json::from_str(printed.lines().last().unwrap()).unwrap()
}

#[test]
fn dead_letters_run_again_once_their_fault_is_mended() {
    let home = tempfile::tempdir().unwrap();
    let dev = Dev::start(&data_in(&home));
    let steps = |line: &str| json!([{"executor": "e", "commands": [line]}]);
    let options = json!({"retry": {"max_attempts": 1}, "non_retryable": ["exit_code"]});
    dev.create("p", steps("false"), options.clone());
    let ids: Vec<_> = (0..N).map(|_| dev.submit("p", &json!({}))).collect();
    for id in &ids {
        assert_eq!(dev.ended(id)["state"], "discarded");
    }
    let (code, listed) = dev.cli(&["dlq", "list", "app", "p"]);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(
        (code, listed["tasks"].as_array().unwrap().len()),
        (Some(0), N)
    );
    let (code, printed) = dev.cli(&["dlq", "redrive", "app", "p"]);
    let last = last_line(&printed);
    assert_eq!(code, Some(7), "{printed}");
    assert_eq!(last["halted"]["reason"], "same-failure", "{printed}");
    assert_eq!(
        (&last["redriven"], &last["over"]),
        (&json!(1), &json!(true))
    );
    let mended = steps("true").to_string();
    let options = options.to_string();
    let apply = [
        "pipeline",
        "apply",
        "app",
        "p",
        "--steps",
        &mended,
        "--options",
        &options,
    ];
    assert_eq!(dev.cli(&apply).0, Some(0));
    let (code, printed) = dev.cli(&["dlq", "redrive", "app", "p"]);
    let last = last_line(&printed);
    assert_eq!(code, Some(0), "{printed}");
    assert_eq!(
        (&last["redriven"], &last["skipped"]),
        (&json!(N), &json!(0))
    );
    for id in &ids {
        assert_eq!(dev.ended(id)["state"], "completed");
    }
    let refused = dev.post(
        "/api/applications/app/pipelines/p/redrive",
        &json!({"limit": 0}),
    );
    assert_eq!(
        (refused.status, &refused.body["field"]),
        (422, &json!("limit"))
    );
    assert_eq!(dev.cli(&["dlq", "redrive", "app", "none"]).0, Some(1));
}
