//! Connections: who has one, when one is closed, and how long each statement may take.
//!
//! Not sqlx's own pool: after an outage that one gives out every connection it had before, and each
//! costs a timeout. Here one failure makes all idle ones suspect, and none is kept.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, MySql, MySqlConnection,
    mysql::{MySqlArguments, MySqlConnectOptions, MySqlRow},
    query::Query,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::{
    call::Call,
    config::Config,
    error::{Cause, is_rolled_back},
};

/// A connection that was idle for longer is asked whether it lives before it is used.
const TRUSTED_FOR: Duration = Duration::from_secs(1);
/// How long that may take.
const PING_TIMEOUT: Duration = Duration::from_secs(1);
/// A connection is not used for longer, so that load moves to servers that were added.
const LIFE_MAX: Duration = Duration::from_secs(30 * 60);
/// The server closes a connection that was silent for so many seconds: longer than `LIFE_MAX`.
const SERVER_WAIT_SECS: u64 = 3600;

/// Gives out connections, each to one holder at a time.
#[derive(Debug)]
pub(crate) struct Pool {
    options: MySqlConnectOptions,
    /// The statement that prepares every new connection.
    setup: Arc<str>,
    statement_timeout: Duration,
    connect_timeout: Duration,
    permits: Arc<Semaphore>,
    idle: Mutex<Idle>,
}

#[derive(Debug, Default)]
struct Idle {
    connections: Vec<Live>,
    /// Grows whenever a connection was lost: older ones are not used again.
    generation: u64,
}

#[derive(Debug)]
struct Live {
    connection: MySqlConnection,
    generation: u64,
    born_at: Instant,
    used_at: Instant,
}

/// One connection, held. Dropped in the middle of a statement or a transaction, it is closed, and
/// the server rolls back.
#[derive(Debug)]
pub(crate) struct Session {
    pool: Arc<Pool>,
    live: Option<Live>,
    is_clean: bool,
    statement_timeout: Duration,
    _permit: OwnedSemaphorePermit,
}

impl Pool {
    pub(crate) fn new(options: MySqlConnectOptions, config: &Config) -> Self {
        // Idle in a transaction, and so holding rows, is who is dead or cut off.
        let idle_secs = config.call_timeout.as_secs().max(1) + 5;
        let setup = format!(
            "SET SESSION time_zone = '+00:00', \
             sql_mode = 'STRICT_TRANS_TABLES,NO_ZERO_DATE,NO_ZERO_IN_DATE,NO_ENGINE_SUBSTITUTION', \
             transaction_isolation = 'REPEATABLE-READ', autocommit = 1, \
             innodb_lock_wait_timeout = {}, max_execution_time = {}, \
             tidb_idle_transaction_timeout = {idle_secs}, wait_timeout = {SERVER_WAIT_SECS}",
            config.lock_wait_timeout.as_secs().max(1),
            config.statement_timeout.as_millis(),
        );
        Self {
            options: options
                .timezone(None)
                .pipes_as_concat(false)
                .no_engine_substitution(false)
                .disable_statement_logging(),
            setup: setup.into(),
            statement_timeout: config.statement_timeout,
            connect_timeout: config.connect_timeout,
            permits: Arc::new(Semaphore::new(config.n_connections as usize)),
            idle: Mutex::default(),
        }
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection that works, as far as one can know. Waits while all are in use.
    pub(crate) async fn session(self: &Arc<Self>) -> Result<Session, sqlx::Error> {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let permit = permit.map_err(|_| sqlx::Error::PoolClosed)?;
        let live = match self.take_idle().await {
            Some(live) => live,
            None => self.connect().await?,
        };
        Ok(Session {
            pool: Arc::clone(self),
            live: Some(live),
            is_clean: true,
            statement_timeout: self.statement_timeout,
            _permit: permit,
        })
    }

    async fn take_idle(&self) -> Option<Live> {
        loop {
            let mut live = self.idle().connections.pop()?;
            if live.born_at.elapsed() > LIFE_MAX {
                continue;
            }
            if live.used_at.elapsed() < TRUSTED_FOR {
                return Some(live);
            }
            match timeout(PING_TIMEOUT, live.connection.ping()).await {
                Ok(Ok(())) => return Some(live),
                Ok(Err(_)) | Err(_) => self.distrust_idle(),
            }
        }
    }

    /// Closes all idle connections, and those in use when they come back.
    fn distrust_idle(&self) {
        let mut idle = self.idle();
        idle.generation += 1;
        idle.connections.clear();
    }

    async fn connect(&self) -> Result<Live, sqlx::Error> {
        let generation = self.idle().generation;
        let connection = async {
            let mut connection = self.options.connect().await?;
            let setup = AssertSqlSafe(Arc::clone(&self.setup));
            connection.execute(setup).await?;
            Ok(connection)
        };
        let connection = timeout(self.connect_timeout, connection).await;
        Ok(Live {
            connection: connection.unwrap_or_else(|_| Err(timed_out("no connection was made")))?,
            generation,
            born_at: Instant::now(),
            used_at: Instant::now(),
        })
    }
}

fn timed_out(what: &'static str) -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, what))
}

impl Session {
    /// Lets statements of this session take longer than others.
    pub(crate) fn allow(&mut self, statement_timeout: Duration) {
        self.statement_timeout = statement_timeout;
    }

    /// Runs one statement; `self` is unusable after it if it was not answered.
    async fn run<T>(&mut self, statement: impl AsyncStatement<T>) -> Result<T, sqlx::Error> {
        let live = self.live.as_mut().ok_or(sqlx::Error::PoolClosed)?;
        let was_clean = std::mem::replace(&mut self.is_clean, false);
        let answer = timeout(self.statement_timeout, statement.run(&mut live.connection)).await;
        let answer = answer.unwrap_or_else(|_| Err(timed_out("a statement was not answered")));
        match &answer {
            Ok(_) => self.is_clean = was_clean,
            Err(err) => match Cause::of(err) {
                // A transaction is over by its holder's drop, so that nothing depends on which errors end one.
                Cause::Conflict | Cause::Full | Cause::Damaged | Cause::Other => {
                    self.is_clean = was_clean;
                }
                Cause::Lost => {
                    self.live = None;
                    self.pool.distrust_idle();
                }
            },
        }
        answer
    }

    /// Runs a statement without parameters, and gives its rows: their values are texts.
    pub(crate) async fn rows(&mut self, sql: String) -> Result<Vec<MySqlRow>, sqlx::Error> {
        self.run(Rows(sql)).await
    }

    /// Runs a statement without parameters, and says how many rows it matched.
    pub(crate) async fn execute(&mut self, sql: impl Into<String>) -> Result<u64, sqlx::Error> {
        self.run(Plain(sql.into())).await
    }

    /// Runs a statement with parameters.
    pub(crate) async fn bound(
        &mut self,
        query: Query<'_, MySql, MySqlArguments>,
    ) -> Result<u64, sqlx::Error> {
        self.run(query).await
    }

    /// Begins a transaction that locks what it changes.
    pub(crate) async fn begin(&mut self) -> Result<(), sqlx::Error> {
        self.execute("BEGIN PESSIMISTIC").await?;
        self.is_clean = false;
        Ok(())
    }

    /// Begins a transaction that reads everything as of now.
    pub(crate) async fn begin_snapshot(&mut self) -> Result<(), sqlx::Error> {
        self.execute("BEGIN OPTIMISTIC").await?;
        self.is_clean = false;
        Ok(())
    }

    /// Ends a transaction that has changed nothing, or whose changes are not wanted.
    pub(crate) async fn roll_back(mut self) -> Result<(), sqlx::Error> {
        self.execute("ROLLBACK").await?;
        self.is_clean = true;
        Ok(())
    }

    /// Commits, and notes in `call` what may have changed.
    pub(crate) async fn commit(mut self, call: &Call) -> Result<(), sqlx::Error> {
        let before = call.committing();
        let answer = self.execute("COMMIT").await;
        match &answer {
            Ok(_) => {
                self.is_clean = true;
                call.committed();
            }
            Err(err) if is_rolled_back(err) => call.not_committed(before),
            // Whatever else happened, the connection has an end, and with it a transaction that is still open.
            Err(_) => {}
        }
        answer.map(|_| ())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let Some(mut live) = self.live.take() else {
            return;
        };
        let mut idle = self.pool.idle();
        if self.is_clean && live.generation == idle.generation {
            live.used_at = Instant::now();
            idle.connections.push(live);
        }
    }
}

/// What a session runs: one statement, however its answer is read.
trait AsyncStatement<T> {
    fn run(
        self,
        connection: &mut MySqlConnection,
    ) -> impl Future<Output = Result<T, sqlx::Error>> + Send;
}

struct Rows(String);

impl AsyncStatement<Vec<MySqlRow>> for Rows {
    async fn run(self, connection: &mut MySqlConnection) -> Result<Vec<MySqlRow>, sqlx::Error> {
        // All texts are made of constants, numbers and quoted literals.
        connection.fetch_all(AssertSqlSafe(self.0)).await
    }
}

struct Plain(String);

impl AsyncStatement<u64> for Plain {
    async fn run(self, connection: &mut MySqlConnection) -> Result<u64, sqlx::Error> {
        let done = connection.execute(AssertSqlSafe(self.0)).await?;
        Ok(done.rows_affected())
    }
}

impl AsyncStatement<u64> for Query<'_, MySql, MySqlArguments> {
    async fn run(self, connection: &mut MySqlConnection) -> Result<u64, sqlx::Error> {
        let done = self.execute(connection).await?;
        Ok(done.rows_affected())
    }
}
