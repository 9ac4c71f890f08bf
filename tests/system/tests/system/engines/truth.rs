//! The log is what tasks are, the store is how far they are: whatever else Kafka says or forgets.

use std::time::Duration;

use rdkafka::{
    ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer as _},
};
use serde_json::json;

use super::{
    cluster::{Cluster, Service, path, spec},
    load::{TestWorker, workers},
};
use crate::fixture::{PATIENCE, wait_until};

const TASKS: &str = "/api/applications/app/pipelines/work/tasks";
const SUBMIT: &str = "/api/applications/app/pipelines/work";

/// Dropped in this order.
struct Running {
    workers: Vec<TestWorker>,
    api: Service,
    member: Service,
    cluster: Cluster,
}

fn start(n_partitions: u16) -> Running {
    let cluster = Cluster::start();
    let (mut member, mut api) = (cluster.member(), cluster.api());
    member.ready();
    api.ready();
    let client = api.client();
    cluster
        .run(client.create_pipeline(&path("work"), &spec(n_partitions)))
        .unwrap();
    let workers = workers(&cluster, &member, "work", 1);
    Running {
        workers,
        api,
        member,
        cluster,
    }
}

impl Running {
    fn topic(&self) -> String {
        format!("{}.default.app.work", self.cluster.name())
    }

    fn tool(&self, class: &str, arguments: &[&str]) -> String {
        let kafka = test_servers::kafka();
        let mut all = vec!["--bootstrap-server", kafka.bootstrap_servers()];
        all.extend(arguments);
        kafka.tool(class, &all).unwrap()
    }

    fn n_ran(&self) -> usize {
        self.workers[0].runs().values().sum()
    }

    fn wait_for_runs(&self, n: usize) {
        wait_until("all tasks ran", || (self.n_ran() >= n).then_some(()));
    }

    /// What Kafka's own tool says of each partition: (current offset, end, lag).
    fn lag(&self) -> Vec<[u64; 3]> {
        let group = format!("{}-progress", self.cluster.name());
        let groups = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";
        let told = self.tool(groups, &["--describe", "--group", &group]);
        let topic = self.topic();
        let of_topic = told.lines().filter(|line| line.contains(&topic));
        let numbers = |line: &str| {
            let columns: Vec<_> = line.split_whitespace().collect();
            [columns[3], columns[4], columns[5]].map(|number| number.parse().unwrap())
        };
        of_topic.map(numbers).collect()
    }
}

#[test]
fn without_the_groups_offsets_nothing_reruns_and_nothing_is_lost() {
    let mut running = start(4);
    for _ in 0..200 {
        assert_eq!(running.api.post(SUBMIT, &json!({})).status, 202);
    }
    running.wait_for_runs(200);
    let lag = wait_until("Kafka's tool shows that all is done", || {
        let lag = running.lag();
        let done: u64 = lag.iter().map(|[current, ..]| current).sum();
        (done == 200).then_some(lag)
    });
    assert!(
        lag.iter()
            .all(|[current, end, lag]| current == end && *lag == 0)
    );
    running.member.kill();
    let groups = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";
    let group = format!("{}-progress", running.cluster.name());
    running.tool(groups, &["--delete", "--group", &group]);
    for _ in 0..50 {
        assert_eq!(running.api.post(SUBMIT, &json!({})).status, 202);
    }
    running.member.start();
    running.member.ready();
    running.wait_for_runs(250);
    let runs = running.workers[0].runs();
    assert_eq!(runs.len(), 250);
    assert!(runs.values().all(|n| *n == 1), "nothing ran again");
}

#[test]
fn aborted_transactions_and_nulls_do_not_hold_back_the_watermark() {
    let running = start(1);
    let topic = running.topic();
    let kafka = test_servers::kafka();
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", kafka.bootstrap_servers())
        .set("transactional.id", format!("{topic}-foreign"))
        .create()
        .unwrap();
    producer.init_transactions(PATIENCE).unwrap();
    let (mut n_tasks, mut n_nulls) = (0, 0);
    for transaction in 0..20 {
        producer.begin_transaction().unwrap();
        for _ in 0..10 {
            let record = BaseRecord::<(), str>::to(&topic).partition(0);
            producer.send(record.payload("{}")).unwrap();
        }
        producer
            .send(BaseRecord::<(), [u8]>::to(&topic).partition(0))
            .unwrap();
        producer.flush(PATIENCE).unwrap();
        // The last one is aborted: nothing that is delivered comes after it.
        if transaction % 2 == 0 {
            producer.commit_transaction(PATIENCE).unwrap();
            n_tasks += 10;
            n_nulls += 1;
        } else {
            producer.abort_transaction(PATIENCE).unwrap();
        }
    }
    running.wait_for_runs(n_tasks);
    let lag = wait_until("the watermark is at the end", || {
        let lag = running.lag();
        lag.first().filter(|[.., lag]| *lag == 0).copied()
    });
    // 20 transactions of 11 records and a marker each.
    assert_eq!(lag[0], 20 * 12);
    let dead = running.api.get(&format!("{TASKS}?state=discarded"));
    let dead = dead.body["tasks"].as_array().unwrap();
    assert_eq!(dead.len(), n_nulls, "{dead:#?}");
    assert_eq!(running.n_ran(), n_tasks, "aborted tasks did not run");
}

#[test]
fn a_topic_made_again_behind_our_back_is_refused_and_nothing_of_it_skipped() {
    let mut running = start(2);
    for _ in 0..20 {
        assert_eq!(running.api.post(SUBMIT, &json!({})).status, 202);
    }
    running.wait_for_runs(20);
    let topic = running.topic();
    let topics = "org.apache.kafka.tools.TopicCommand";
    running.tool(topics, &["--delete", "--topic", &topic]);
    let create = ["--create", "--topic", &topic, "--partitions", "2"];
    wait_until("the topic is made again", || {
        let kafka = test_servers::kafka();
        let mut all = vec!["--bootstrap-server", kafka.bootstrap_servers()];
        all.extend(create);
        kafka.tool(topics, &all).ok()
    });
    let told = wait_until("the member says that it cannot go on", || {
        let ready = running.member.get("/readyz");
        let text = ready.body.as_str().unwrap_or_default().to_owned();
        (ready.status == 503 && text.contains("deleted and made again")).then_some(text)
    });
    println!("readyz: {}", told.trim());
    // As well after a restart: only people can tell what became of its tasks.
    running.member.kill();
    running.member.start();
    wait_until("the next member says so too", || {
        let ready = running.member.get("/readyz");
        let text = ready.body.as_str().unwrap_or_default().to_owned();
        text.contains("deleted and made again").then_some(())
    });
    // Other pipelines go on.
    let client = running.api.client();
    running
        .cluster
        .run(client.create_pipeline(&path("other"), &spec(1)))
        .unwrap();
    let other = workers(&running.cluster, &running.member, "other", 1);
    let submit = "/api/applications/app/pipelines/other";
    assert_eq!(running.api.post(submit, &json!({})).status, 202);
    wait_until("its task runs", || {
        (other[0].runs().len() == 1).then_some(())
    });
    assert_eq!(running.n_ran(), 20);
}

#[test]
fn what_kafkas_own_producer_writes_runs() {
    let running = start(3);
    let payload = running.cluster.home().join("payload");
    std::fs::write(&payload, "{\"millis\":1}\n{\"millis\":0}\n").unwrap();
    let kafka = test_servers::kafka();
    let servers = format!("bootstrap.servers={}", kafka.bootstrap_servers());
    let producer = [
        "--topic",
        &running.topic(),
        "--num-records",
        "500",
        "--throughput",
        "-1",
        "--payload-file",
        payload.to_str().unwrap(),
        "--producer-props",
        &servers,
    ];
    kafka
        .tool("org.apache.kafka.tools.ProducerPerformance", &producer)
        .unwrap();
    running.wait_for_runs(500);
    let listed = wait_until("their ends are durable", || {
        let listed = running
            .api
            .get(&format!("{TASKS}?state=completed&limit=1000"));
        (listed.body["tasks"].as_array()?.len() == 500).then_some(listed)
    });
    assert_eq!(listed.body["backlog"], 0);
}

/// Longer than two flushes of a second each.
const TWO_FLUSHES: Duration = Duration::from_secs(3);

#[test]
fn poison_and_delayed_tasks_hold_back_no_watermark() {
    let running = start(2);
    let n = 3_000;
    let client = running.api.client();
    let path = path("work");
    let submits = (0..n).map(|i| {
        let mut submit = scheduler_core::Submit::new("{}");
        match i % 100 {
            // A delayed one, and one that cannot be a task's data of this worker and fails.
            0 => submit.delay = Some(Duration::from_secs(3_600)),
            1 => submit.data = r#"{"fail":1}"#.into(),
            _ => {}
        }
        submit
    });
    for batch in submits.collect::<Vec<_>>().chunks(1_000) {
        let answers = running
            .cluster
            .run(client.submit_batch(&path, batch.to_vec()));
        assert!(answers.unwrap().iter().all(Result::is_ok));
    }
    running.wait_for_runs(n - n / 100);
    let start = std::time::Instant::now();
    let watermark = "SELECT CAST(SUM(watermark) AS SIGNED) FROM shard";
    while running.cluster.number(watermark) < i64::try_from(n).unwrap() {
        assert!(
            start.elapsed() < TWO_FLUSHES,
            "{} of {n}",
            running.cluster.number(watermark)
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    println!("the watermark is at the head after {:?}", start.elapsed());
}
