//! What must be refused, and how.

use serde_json::json;

use crate::fixture::{Answer, Dev, data_in};

fn assert_problem(answer: &Answer, status: u16, kind: &str) {
    assert_eq!(answer.status, status, "{:#}", answer.body);
    assert_eq!(answer.media_type, "application/problem+json");
    assert_eq!(
        answer.body["type"],
        format!("urn:workload:problem:{kind}"),
        "{:#}",
        answer.body
    );
    assert!(answer.body["detail"].as_str().unwrap().len() > 10);
}

#[test]
fn bad_requests_get_clear_problems() {
    let home = tempfile::tempdir().unwrap();
    let dev = Dev::start(&data_in(&home));
    let pipelines = "/api/applications/app/pipelines";
    dev.create(
        "p",
        json!([{"executor": "any", "commands": ["echo {{name}}"]}]),
        json!({}),
    );
    let submit = "/api/applications/app/pipelines/p";
    let long = "a".repeat(41);
    for name in ["..", "a/b", "Upper", long.as_str(), "", "-a", "a b"] {
        let body = json!({"name": name, "pipeline": []});
        assert_problem(&dev.post(pipelines, &body), 422, "invalid");
    }
    let steps =
        |line: &str| json!({"name": "x", "pipeline": [{"executor": "e", "commands": [line]}]});
    for line in ["", "'open", "{{program}} x", "sh -c 'echo {{name}}'"] {
        assert_problem(&dev.post(pipelines, &steps(line)), 422, "invalid");
    }
    assert_problem(
        &dev.post(pipelines, &json!({"name": "p", "pipeline": []})),
        409,
        "exists",
    );
    assert_problem(
        &dev.post(pipelines, &json!({"name": "y"})),
        400,
        "malformed",
    );
    assert_problem(
        &dev.post(pipelines, &json!({"name": "y", "pipeline": [], "x": 1})),
        400,
        "malformed",
    );
    for positional in [
        json!(["y", null, []]),
        json!({"name": "y", "pipeline": [["e", ["echo"]]]}),
        json!({"name": "y", "pipeline": [], "options": {"retry": [3]}}),
    ] {
        assert_problem(&dev.post(pipelines, &positional), 400, "malformed");
    }
    for path in [
        "/api/applications?x=1",
        "/api/applications/%ff",
        "/api/applications/app/pipelines/p?wait=1s",
        "/api/applications/app/tasks/%ff",
    ] {
        assert_problem(&dev.get(path), 400, "malformed");
    }
    let long = dev.get(&format!(
        "/api/applications/app/tasks/{}",
        "a".repeat(9_000)
    ));
    assert_problem(&long, 404, "not-found");
    assert!(long.body["detail"].as_str().unwrap().len() < 2_000);
    let keys = [("Idempotency-Key", "k1"), ("Idempotency-Key", "k2")];
    assert_problem(
        &dev.post_with(submit, &keys, r#"{"name":"x"}"#),
        400,
        "malformed",
    );
    let far = json!({"name": "y", "chart": "https://example.com/chart"});
    assert_problem(&dev.post(pipelines, &far), 422, "invalid");
    for body in ["", "{", "[1]", "\"x\"", "{\"name\": }"] {
        assert_problem(&dev.post_text(submit, body), 400, "malformed");
    }
    let nested = format!("{{\"name\":{}{}}}", "[".repeat(200), "]".repeat(200));
    assert_problem(&dev.post_text(submit, &nested), 400, "malformed");
    let missing = dev.post(submit, &json!({"nam": "you"}));
    assert_problem(&missing, 422, "invalid");
    assert_eq!(missing.body["field"], "name");
    assert_problem(
        &dev.post(&format!("{submit}?pririoty=1"), &json!({"name": "x"})),
        400,
        "malformed",
    );
    assert_problem(
        &dev.post(&format!("{submit}?delay=soon"), &json!({"name": "x"})),
        422,
        "invalid",
    );
    let large = json!({"name": "x".repeat(2 << 20)});
    assert_problem(&dev.post(submit, &large), 413, "too-large");
    assert_problem(
        &dev.get("/api/applications/app/tasks/nonsense"),
        404,
        "not-found",
    );
    assert_problem(
        &dev.get("/api/applications/other/pipelines"),
        404,
        "not-found",
    );
    assert_problem(&dev.get("/nothing"), 404, "not-found");
    assert_problem(&dev.post("/healthz", &json!({})), 405, "method-not-allowed");
    let listed = dev.get("/api/applications/app/pipelines/p/tasks");
    assert_eq!(
        listed.body["tasks"].as_array().unwrap().len(),
        0,
        "nothing of it was accepted"
    );
}

#[test]
fn other_sites_and_names_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let dev = Dev::start(&data_in(&home));
    dev.create(
        "p",
        json!([{"executor": "any", "commands": ["true"]}]),
        json!({}),
    );
    let submit = "/api/applications/app/pipelines/p";
    let form = ("Content-Type", "application/x-www-form-urlencoded");
    for header in [
        ("Origin", "https://example.com"),
        ("Origin", "null"),
        ("Sec-Fetch-Site", "cross-site"),
        ("Host", "example.com"),
    ] {
        assert_problem(
            &dev.post_with(submit, &[form, header], "{}"),
            403,
            "foreign-request",
        );
    }
    assert_eq!(
        dev.post_with(submit, &[form], "{}").status,
        202,
        "a form type alone is no fault"
    );
}

#[test]
fn a_change_names_the_revision_it_is_based_on() {
    let home = tempfile::tempdir().unwrap();
    let dev = Dev::start(&data_in(&home));
    let cli = |arguments: &[&str]| dev.cli(arguments);
    let apply = |line: &str| {
        let steps = json!([{"executor": "e", "commands": [line]}]).to_string();
        cli(&["pipeline", "apply", "app", "p", "--steps", &steps])
    };
    assert_eq!(apply("echo one").0, Some(0));
    let (code, changed) = apply("echo two");
    assert_eq!(code, Some(0));
    let changed: serde_json::Value = serde_json::from_str(&changed).unwrap();
    assert_eq!(changed["revision"], 2);
    let (code, task) = cli(&["task", "submit", "app", "p", "{}", "--wait", "30s"]);
    assert_eq!(code, Some(0));
    assert!(task.contains("two\\n"), "{task}");
    assert_eq!(cli(&["task", "get", "app", "nonsense"]).0, Some(1));
    assert_eq!(cli(&["pipeline", "delete", "app", "p"]).0, Some(0));
    assert_eq!(cli(&["pipeline", "get", "app", "p"]).0, Some(1));
}
