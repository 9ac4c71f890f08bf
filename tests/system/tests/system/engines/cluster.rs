//! Our services as processes on real Kafka and TiDB, each cluster with topics and a database of its own.

use std::{
    collections::BTreeSet,
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use scheduler_core::{PipelinePath, PipelineSpec, TenantName};
use scheduler_grpc::client::{Client, connect};
use sqlx::{Connection as _, Executor as _, MySqlConnection};

use crate::fixture::{Http, PATIENCE, binary, signal, wait_until};

/// Who loads the machine.
static ALONE: Mutex<()> = Mutex::new(());

/// Names and places that the processes of one cluster share.
pub(crate) struct Cluster {
    home: tempfile::TempDir,
    name: String,
    kafka: String,
    tidb: String,
    settings: Vec<String>,
    runtime: tokio::runtime::Runtime,
    /// Ends last.
    _alone: MutexGuard<'static, ()>,
}

impl Cluster {
    /// On these servers, with an empty database and a topic prefix that nobody else has.
    pub(crate) fn on(kafka: &str, tidb: &str) -> Self {
        let name = format!("t{:016x}", fastrand::u64(..));
        let cluster = Self {
            home: tempfile::tempdir().unwrap(),
            settings: vec![
                format!("kafka.topic_prefix={name}"),
                format!("kafka.group={name}-members"),
                format!("kafka.slots_topic={name}-slots"),
                format!("kafka.progress_group={name}-progress"),
                "kafka.replication_factor=1".to_owned(),
                "kafka.min_insync_replicas=1".to_owned(),
                "scheduler.lease=5s".to_owned(),
                "scheduler.adoption_window=3s".to_owned(),
            ],
            name,
            kafka: kafka.to_owned(),
            tidb: tidb.to_owned(),
            runtime: tokio::runtime::Runtime::new().unwrap(),
            // A test that failed leaves nothing behind that matters to the next.
            _alone: ALONE.lock().unwrap_or_else(PoisonError::into_inner),
        };
        let create = format!("CREATE DATABASE {}", cluster.name);
        cluster.sql_on(tidb, &create);
        cluster
    }

    /// On the servers that all tests share.
    pub(crate) fn start() -> Self {
        let (kafka, tidb) = (test_servers::kafka(), test_servers::tidb());
        Self::on(kafka.bootstrap_servers(), tidb.url())
    }

    /// The same with other settings, KEY=VALUE.
    pub(crate) fn with(mut self, settings: &[&str]) -> Self {
        self.settings
            .extend(settings.iter().map(ToString::to_string));
        self
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    fn sql_on(&self, url: &str, sql: &str) {
        self.runtime.block_on(async {
            let mut db = MySqlConnection::connect(url).await.unwrap();
            db.execute(sqlx::AssertSqlSafe(sql)).await.unwrap();
            db.close().await.unwrap();
        });
    }

    /// A number from the cluster's database.
    pub(crate) fn number(&self, sql: &str) -> i64 {
        self.runtime.block_on(async {
            let url = format!("{}/{}", self.tidb, self.name);
            let mut db = MySqlConnection::connect(&url).await.unwrap();
            let number = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&mut db);
            let number: i64 = number.await.unwrap();
            db.close().await.unwrap();
            number
        })
    }

    /// The partitions of the only pipeline whose shards this member owns, as the store says.
    pub(crate) fn partitions_of(&self, member: &Service) -> BTreeSet<u16> {
        let address = member.grpc.trim_start_matches("http://");
        self.runtime.block_on(async {
            let url = format!("{}/{}", self.tidb, self.name);
            let mut db = MySqlConnection::connect(&url).await.unwrap();
            let sql = "SELECT `partition` FROM shard WHERE address = ?";
            let found = sqlx::query_scalar(sql).bind(address).fetch_all(&mut db);
            let found: Vec<u16> = found.await.unwrap();
            db.close().await.unwrap();
            found.into_iter().collect()
        })
    }

    /// Starts a member.
    pub(crate) fn member(&self) -> Service {
        self.begin("workload-scheduler")
    }

    /// Starts a member that reaches the servers elsewhere.
    pub(crate) fn member_on(&self, kafka: &str, tidb: &str) -> Service {
        self.begin_on("workload-scheduler", kafka, tidb)
    }

    /// Starts an API.
    pub(crate) fn api(&self) -> Service {
        self.begin("workload-api")
    }

    fn begin(&self, program: &'static str) -> Service {
        self.begin_on(program, &self.kafka, &self.tidb)
    }

    fn begin_on(&self, program: &'static str, kafka: &str, tidb: &str) -> Service {
        let id = format!("{:08x}", fastrand::u32(..));
        let [http, grpc] = test_servers::free_ports().unwrap();
        let mut arguments = vec![
            format!("http.listen=127.0.0.1:{http}"),
            format!("grpc.listen=127.0.0.1:{grpc}"),
            format!("kafka.bootstrap_servers={kafka}"),
            format!("tidb.url={tidb}/{}", self.name),
        ];
        arguments.extend(self.settings.iter().cloned());
        let mut service = Service {
            program,
            arguments,
            log: self.home.path().join(format!("{program}-{id}.log")),
            http: Http::at(format!("http://127.0.0.1:{http}")),
            grpc: format!("http://127.0.0.1:{grpc}"),
            process: None,
            runtime: self.runtime.handle().clone(),
        };
        service.start();
        service
    }

    /// Runs async code of a test.
    pub(crate) fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Runs async code of a test beside it.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.runtime.spawn(future)
    }

    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let drop = format!("DROP DATABASE {}", self.name);
            self.sql_on(&self.tidb, &drop);
        }
    }
}

/// One of our services; killed when dropped.
pub(crate) struct Service {
    program: &'static str,
    arguments: Vec<String>,
    log: PathBuf,
    http: Http,
    pub(crate) grpc: String,
    process: Option<Child>,
    runtime: tokio::runtime::Handle,
}

impl std::ops::Deref for Service {
    type Target = Http;

    fn deref(&self) -> &Http {
        &self.http
    }
}

impl Service {
    /// Starts it, or starts it again where it was.
    pub(crate) fn start(&mut self) {
        self.start_as(self.program, None);
    }

    /// Starts a member, where it was, that dies by itself when it passes a point for the `n`th time after the first.
    pub(crate) fn start_to_fail(&mut self, point: &str, n: u32) {
        self.start_as("failing-member", Some(format!("{point}:{n}")));
    }

    /// Starts it, where it was, by a clock that is as far from the machine's as that file says: `+1h`, `-20m`.
    pub(crate) fn start_by_clock(&mut self, file: &Path) {
        std::fs::write(file, "+0").unwrap();
        let libraries = in_each("/usr/lib", "faketime/libfaketime.so.1");
        let library = libraries
            .first()
            .expect("faketime is missing; install the package of that name");
        let variables = [
            ("LD_PRELOAD", library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", file.display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            // A machine whose wall clock is set keeps its time since it started.
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ];
        self.start_with(self.program, variables);
    }

    fn start_as(&mut self, program: &str, failpoint: Option<String>) {
        self.start_with(program, failpoint.map(|failpoint| ("FAILPOINT", failpoint)));
    }

    fn start_with(
        &mut self,
        program: &str,
        variables: impl IntoIterator<Item = (&'static str, String)>,
    ) {
        assert!(self.process.is_none(), "it runs already");
        let log = File::options().create(true).append(true).open(&self.log);
        let mut command = Command::new(binary(program));
        command.envs(variables);
        for argument in &self.arguments {
            command.args(["--set", argument]);
        }
        let process = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.unwrap())
            .spawn();
        self.process = Some(process.unwrap());
    }

    /// Waits until it says that it is ready.
    pub(crate) fn ready(&mut self) {
        let start = std::time::Instant::now();
        while self.http.get("/readyz").status != 200 {
            let ended = self.process.as_mut().unwrap().try_wait().unwrap();
            assert!(
                ended.is_none() && start.elapsed() < PATIENCE,
                "{} does not become ready ({ended:?}):\n{}",
                self.program,
                self.log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.as_ref().unwrap().id()
    }

    /// A gauge or counter without labels from its metrics, 0 if it was never set.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let metrics = self.http.get("/metrics").body;
        let lines = metrics.as_str().unwrap_or_default().lines();
        let mut values = lines.filter_map(|line| line.split_once(' '));
        let found = values.find(|(key, _)| *key == name);
        found.map_or(0.0, |(_, value)| value.parse().unwrap())
    }

    pub(crate) fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// Whether it has ended by itself; if so, it can be started again.
    pub(crate) fn has_died(&mut self) -> bool {
        let died = self.process.as_mut().unwrap().try_wait().unwrap();
        if died.is_some() {
            self.process = None;
        }
        died.is_some()
    }

    /// Ends it as Kubernetes would, and tells whether it ended well.
    pub(crate) fn stop(&mut self) {
        self.signal("TERM");
        let mut process = self.process.take().unwrap();
        let status = wait_until("it ends", || process.try_wait().unwrap());
        assert!(status.success(), "ended with {status}: {}", self.log());
    }

    /// The API over gRPC, as a tenant.
    pub(crate) fn client(&self) -> Client {
        let tenant: TenantName = "default".try_into().unwrap();
        let _entered = self.runtime.enter();
        Client::new(connect(&self.grpc).unwrap(), tenant)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("── {} ──\n{}", self.program, self.log());
        }
        if let Some(mut process) = self.process.take() {
            // It may have ended by itself.
            process.kill().ok();
            process.wait().ok();
        }
    }
}

/// Files of this name in the directories of one.
fn in_each(dir: &str, name: &str) -> Vec<PathBuf> {
    let dirs = std::fs::read_dir(dir).unwrap();
    let files = dirs.map(|dir| dir.unwrap().path().join(name));
    files.filter(|file| file.is_file()).collect()
}

/// Pipeline `app/NAME` of the tenant of all tests.
pub(crate) fn path(name: &str) -> PipelinePath {
    scheduler_core::path("default", "app", name).unwrap()
}

/// A pipeline whose worker does all that is to be done.
pub(crate) fn spec(n_partitions: u16) -> PipelineSpec {
    PipelineSpec {
        steps: [].into(),
        defaults: scheduler_core::TaskOptions::default(),
        n_partitions,
        ..PipelineSpec::default()
    }
}
