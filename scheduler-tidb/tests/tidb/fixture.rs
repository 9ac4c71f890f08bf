//! A database of its own for each test, and small builders.

use std::{sync::Arc, time::Duration};

use scheduler_core::{
    Epoch, LeaseToken, Offset, Partition, PipelineNumber, PipelineSpec, ShardId, TaskOptions,
    Timestamp,
    port::{
        TaskStore,
        catalog::Change,
        log::NewTask,
        store::{Claim, Ending, Lookup, ShardFlush, StoredState, StoredTask},
    },
};
use scheduler_tidb::{Config, Tidb};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, MySqlConnection, mysql::MySqlRow};

/// Far enough from now that no test reaches it.
pub(crate) const FAR: Timestamp = Timestamp::from_millis(4_000_000_000_000);

/// A database on a server; dropped with it.
pub(crate) struct Database {
    server: String,
    name: String,
}

impl Database {
    /// On the server that all tests share.
    pub(crate) fn shared() -> Self {
        Self::on(test_servers::tidb().url())
    }

    /// On another server.
    pub(crate) fn on(server: &str) -> Self {
        let name = format!("wl_{:016x}", fastrand::u64(..));
        let server = server.trim_end_matches('/').to_owned();
        Self { server, name }
    }

    pub(crate) fn config(&self) -> Config {
        self.config_through(&self.server)
    }

    /// The same database, reached at another address.
    pub(crate) fn config_through(&self, server: &str) -> Config {
        // Long, because a machine that tests everything at once is slow; tests of the limits set their own.
        Config {
            call_timeout: Duration::from_secs(60),
            statement_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(20),
            ..Config::new(format!("{server}/{}", self.name))
        }
    }

    pub(crate) async fn tidb(&self) -> Tidb {
        Tidb::open(self.config()).await.unwrap()
    }

    /// As a person with an SQL client.
    pub(crate) async fn client(&self) -> Client {
        let url = format!("{}/{}", self.server, self.name);
        Client(MySqlConnection::connect(&url).await.unwrap())
    }

    /// Waits until a session is in a statement that begins so: for a row that another one holds.
    pub(crate) async fn until_waiting(&self, statement: &str) {
        let look = format!(
            "SELECT 1 FROM information_schema.processlist \
             WHERE db = DATABASE() AND id <> CONNECTION_ID() AND info LIKE '{statement}%'"
        );
        let mut client = self.client().await;
        let waits = async || (!client.rows(&look).await.is_empty()).then_some(());
        eventually(statement, waits).await;
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let (server, name) = (self.server.clone(), self.name.clone());
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let drop = format!("DROP DATABASE IF EXISTS {name}");
                // A server that the test has killed has taken the database with it.
                if let Ok(mut db) = MySqlConnection::connect(&server).await {
                    db.execute(AssertSqlSafe(drop)).await.ok();
                }
            });
        });
        dropped.join().ok();
    }
}

/// An SQL client.
pub(crate) struct Client(MySqlConnection);

impl Client {
    pub(crate) async fn run(&mut self, sql: &str) {
        self.0.execute(AssertSqlSafe(sql.to_owned())).await.unwrap();
    }

    pub(crate) async fn rows(&mut self, sql: &str) -> Vec<MySqlRow> {
        let rows = self.0.fetch_all(AssertSqlSafe(sql.to_owned())).await;
        rows.unwrap_or_else(|err| panic!("{sql}: {err}"))
    }

    /// All values of all rows as one text.
    pub(crate) async fn text(&mut self, sql: &str) -> String {
        use sqlx::Row as _;
        let rows = self.rows(sql).await;
        let line = |row: &MySqlRow| {
            let values = (0..row.len()).map(|at| {
                let value: Option<Vec<u8>> = row.try_get_unchecked(at).unwrap();
                value.map_or("NULL".to_owned(), |value| {
                    String::from_utf8_lossy(&value).into_owned()
                })
            });
            values.collect::<Vec<_>>().join(" | ")
        };
        rows.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

pub(crate) fn shard(pipeline: u32, partition: u16) -> ShardId {
    ShardId {
        pipeline: PipelineNumber(pipeline),
        partition: Partition(partition),
    }
}

pub(crate) fn claim_of(shard: ShardId, address: &str) -> Claim {
    Claim {
        shard,
        address: address.into(),
        incarnation: "log-1".into(),
    }
}

/// Claims one shard.
pub(crate) async fn claim(store: &dyn TaskStore, shard: ShardId) -> Epoch {
    let claims = [claim_of(shard, "127.0.0.1:7070")];
    store.claim(&claims).await.unwrap()[0].epoch
}

pub(crate) fn stored(offset: u64, state: StoredState) -> StoredTask {
    StoredTask {
        offset: Offset(offset),
        accepted_at: Timestamp::from_millis(1_000_000_000_000 + offset),
        task: NewTask {
            data: format!("{{\"n\":{offset}}}").into(),
            options: None,
            traceparent: None,
        },
        state,
        attempt: 1,
        token: LeaseToken::NONE,
        started_at: None,
        errors: Vec::new(),
    }
}

/// Options that ask for an ordering key and nothing else.
pub(crate) fn keyed_by(key: &str) -> TaskOptions {
    TaskOptions {
        key: Some(key.try_into().unwrap()),
        ..TaskOptions::default()
    }
}

pub(crate) fn completed() -> StoredState {
    ended(Ending::Completed {
        result: "\"fine\"".into(),
    })
}

pub(crate) fn ended(ending: Ending) -> StoredState {
    StoredState::Ended {
        ending,
        ended_at: Timestamp::from_millis(1_000_000_009_000),
        keep_until: FAR,
    }
}

pub(crate) fn part(shard: ShardId, epoch: Epoch, number: u64) -> ShardFlush {
    ShardFlush {
        shard,
        epoch,
        number,
        watermark: Offset::ZERO,
        seen_end: Offset::ZERO,
        done: Vec::new(),
        tasks: Vec::new(),
        forgotten: Vec::new(),
        keys: Vec::new(),
        cancels: None,
    }
}

/// A part that completes these tasks.
pub(crate) fn completing(
    shard: ShardId,
    epoch: Epoch,
    number: u64,
    offsets: std::ops::Range<u64>,
) -> ShardFlush {
    ShardFlush {
        tasks: offsets.map(|n| stored(n, completed())).collect(),
        ..part(shard, epoch, number)
    }
}

pub(crate) async fn is_stored(store: &dyn TaskStore, shard: ShardId, offset: u64) -> bool {
    let lookup = Lookup::Task(shard, Offset(offset));
    store.get(&[lookup]).await.unwrap()[0].is_some()
}

pub(crate) fn create(name: &str) -> Change {
    Change::CreatePipeline {
        path: scheduler_core::path("acme", "shop", name).unwrap(),
        spec: PipelineSpec {
            steps: [].into(),
            defaults: TaskOptions::default(),
            n_partitions: 4,
            ..PipelineSpec::default()
        },
        at: Timestamp::from_millis(1_000_000_000_000),
    }
}

/// Waits for something that another thread or the server does.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The store's and the catalogue's failures tell their kind.
pub(crate) fn kind<T: std::fmt::Debug>(
    answer: Result<T, scheduler_core::port::PortError>,
) -> scheduler_core::port::FailureKind {
    answer.unwrap_err().kind()
}

pub(crate) type Store = Arc<dyn TaskStore>;
