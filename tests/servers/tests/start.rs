//! The servers come up, keep what they have over `kill -9`, and are gone afterwards.

use std::path::Path;

use test_servers::{Kafka, Tidb};

#[test]
fn kafka_keeps_its_topics_over_kill_9_and_leaves_nothing_behind() {
    let mut kafka = Kafka::start().unwrap();
    let servers = kafka.bootstrap_servers().to_owned();
    let topics = "org.apache.kafka.tools.TopicCommand";
    let create = [
        "--bootstrap-server",
        &servers,
        "--create",
        "--topic",
        "kept",
    ];
    kafka.tool(topics, &create).unwrap();
    kafka.restart().unwrap();
    let through_proxy = kafka.proxied_bootstrap_servers();
    let list = ["--bootstrap-server", &through_proxy, "--list"];
    assert_eq!(kafka.tool(topics, &list).unwrap().trim(), "kept");
    let process = format!("/proc/{}", kafka.pid());
    drop(kafka);
    assert!(!Path::new(&process).exists());
}

#[test]
fn tidb_starts_again_where_it_was_and_leaves_nothing_behind() {
    let mut tidb = Tidb::start().unwrap();
    let (url, dir) = (tidb.url().to_owned(), tidb.dir().to_owned());
    tidb.restart().unwrap();
    assert_eq!(tidb.url(), url);
    let process = format!("/proc/{}", tidb.pid());
    drop(tidb);
    assert!(!Path::new(&process).exists() && !dir.exists());
}
