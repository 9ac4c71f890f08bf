//! One transaction after the other: group in, durable out, and what to do when the disk says no.

use std::time::{SystemTime, UNIX_EPOCH};

use scheduler_core::{Timestamp, port::FailureKind};
use sqlx::{Connection, SqliteConnection};
use tokio::sync::oneshot;

use super::{
    apply::Transaction,
    op::{Failed, Op, Outcome, Request},
    publish::{Committed, Publisher},
    stage::Stage,
    state::State,
};
use crate::{
    config::{Config, OnSyncFailure},
    database::PAGE_BYTES,
    error::Cause,
    log::LogEvent,
    space::{Room, Space},
};

/// What a transaction adds to the write-ahead log besides its rows, about: some pages of each tree.
const COMMIT_WAL_BYTES: u64 = 16 * PAGE_BYTES as u64;
/// Rows are written to the table and, in part, to its indices.
const WAL_BYTES_PER_BYTE: u64 = 2;

/// Writes groups of calls.
#[derive(Debug)]
pub(super) struct Committer {
    db: SqliteConnection,
    /// Absent after a failure, until it is read again.
    state: Option<State>,
    space: Space,
    publisher: Publisher,
    wal_bytes: u64,
    wal_bytes_max: u64,
    on_sync_failure: OnSyncFailure,
}

/// What an attempt to write a group gave.
struct Written {
    outcomes: Vec<Result<Outcome, Failed>>,
    events: Vec<LogEvent>,
    catalog_changed: bool,
    n_bytes: usize,
}

impl Committer {
    pub(super) fn new(
        config: Config,
        db: SqliteConnection,
        state: State,
        publisher: Publisher,
    ) -> Self {
        Self {
            db,
            state: Some(state),
            space: Space::new(&config),
            publisher,
            wal_bytes: 0,
            wal_bytes_max: config.wal_bytes_max,
            on_sync_failure: config.on_sync_failure,
        }
    }

    /// Writes a group and hands its answers on; `false` if nobody can be answered any more.
    pub(super) async fn commit(&mut self, group: Vec<Request>) -> bool {
        let room = self.look_for_room().await;
        let mut written = self.attempt(&group, room).await;
        if let Err(Cause::Full) = written {
            self.space.give_up();
            // Now the reserve's bytes are free, and they are for all calls but appends.
            if room == Room::Enough {
                written = self.attempt(&group, Room::Short).await;
            }
        }
        match written {
            Ok(written) => self.publish(group, written).await,
            Err(cause) => {
                fail(group, cause);
                true
            }
        }
    }

    /// Deletes some of what is past its time; `true` if there is more.
    pub(super) async fn sweep(&mut self) -> bool {
        let now = crate::key::time_key(wall_clock());
        let due: Result<Option<(i64,)>, _> = sqlx::query_as(
            "SELECT 1 WHERE EXISTS (SELECT 1 FROM task WHERE keep_until <= ?1)
                OR EXISTS (SELECT 1 FROM idempotency_key WHERE keep_until <= ?1)",
        )
        .bind(now)
        .fetch_optional(&mut self.db)
        .await;
        if !matches!(due, Ok(Some(_))) {
            return false;
        }
        let (reply, _) = oneshot::channel();
        let request = Request {
            op: Op::Sweep,
            permit: None,
            n_bytes: 0,
            reply,
        };
        let group = vec![request];
        let Ok(written) = self.attempt(&group, Room::Short).await else {
            return false;
        };
        let is_more = |outcome: &_| matches!(outcome, Ok(Outcome::Step { more: true }));
        let more = written.outcomes.iter().any(is_more);
        self.publish(group, written).await && more
    }

    /// Copies the write-ahead log into the database and closes both.
    pub(super) async fn close(mut self) {
        self.publisher.finish().await;
        self.checkpoint("PRAGMA wal_checkpoint(TRUNCATE)").await;
        if let Err(err) = self.db.close().await {
            tracing::warn!(%err, "cannot close the database");
        }
    }

    async fn look_for_room(&mut self) -> Room {
        let mut unused = 0;
        if self.space.may_be_short() {
            let pages: Result<(i64,), _> = sqlx::query_as("PRAGMA freelist_count")
                .fetch_one(&mut self.db)
                .await;
            unused = pages.map_or(0, |(pages,)| pages.cast_unsigned() * u64::from(PAGE_BYTES));
        }
        self.space.look(unused)
    }

    /// Writes the group in one transaction, or nothing of it.
    async fn attempt(&mut self, group: &[Request], room: Room) -> Result<Written, Cause> {
        let written = match self.try_write(group, room).await {
            Ok(written) => written,
            Err(err) => {
                let cause = Cause::of(&err);
                tracing::warn!(%err, n_calls = group.len(), "a transaction failed");
                if cause == Cause::Disk {
                    (self.on_sync_failure)(&err.to_string());
                }
                // SQLite may have rolled back by itself, and then says that there is nothing to roll back.
                sqlx::query("ROLLBACK").execute(&mut self.db).await.ok();
                self.state = None;
                return Err(cause);
            }
        };
        let n_bytes = written.n_bytes as u64;
        self.wal_bytes += COMMIT_WAL_BYTES + n_bytes * WAL_BYTES_PER_BYTE;
        if self.wal_bytes > self.wal_bytes_max {
            self.checkpoint("PRAGMA wal_checkpoint(PASSIVE)").await;
        }
        Ok(written)
    }

    async fn try_write(&mut self, group: &[Request], room: Room) -> Result<Written, sqlx::Error> {
        let db = &mut self.db;
        let state = match &mut self.state {
            Some(state) => state,
            absent => absent.insert(State::load(db).await?),
        };
        let now = wall_clock();
        state.stamped = state.stamped.max(now);
        sqlx::query("BEGIN IMMEDIATE").execute(&mut *db).await?;
        let mut transaction = Transaction {
            stage: Stage::new(state.stamped),
            state,
            db,
            room,
            now,
            catalog_changed: false,
        };
        let mut outcomes = Vec::with_capacity(group.len());
        for request in group {
            outcomes.push(transaction.apply(&request.op).await?);
        }
        let Transaction {
            mut stage,
            state,
            db,
            catalog_changed,
            ..
        } = transaction;
        stage.write(state, db).await?;
        state.commit += 1;
        sqlx::query("UPDATE meta SET value = ? WHERE name = 'commit'")
            .bind(state.commit.cast_signed())
            .execute(&mut *db)
            .await?;
        sqlx::query("COMMIT").execute(&mut *db).await?;
        Ok(Written {
            outcomes,
            events: stage.events,
            catalog_changed,
            n_bytes: group.iter().map(|request| request.n_bytes).sum(),
        })
    }

    async fn publish(&mut self, group: Vec<Request>, written: Written) -> bool {
        let Some(state) = &self.state else {
            return false;
        };
        let committed = Committed {
            commit: state.commit,
            events: written.events,
            catalog: written.catalog_changed.then(|| state.catalog.snapshot()),
            answers: group
                .into_iter()
                .zip(written.outcomes)
                .map(|(request, outcome)| (request.reply, outcome, request.permit))
                .collect(),
        };
        self.publisher.publish(committed).await
    }

    /// Bounds the write-ahead log. A failed sync must not pass unseen here either: SQLite would
    /// reuse the log, and what the database did not keep would be lost.
    async fn checkpoint(&mut self, statement: &'static str) {
        match sqlx::query(statement).execute(&mut self.db).await {
            Ok(_) => self.wal_bytes = 0,
            Err(err) if Cause::of(&err) == Cause::Disk => (self.on_sync_failure)(&err.to_string()),
            // A reader or a full disk is in the way: the next transaction tries again.
            Err(err) => tracing::warn!(%err, "cannot copy the write-ahead log into the database"),
        }
    }
}

fn fail(group: Vec<Request>, cause: Cause) {
    let kind = match cause {
        // Never reached: the disk's failure ends the process.
        Cause::Disk => FailureKind::Unknown,
        Cause::Full | Cause::Damaged | Cause::Other => cause.kind(),
    };
    let failed = Failed {
        kind,
        message: "the transaction was rolled back".into(),
    };
    for request in group {
        // Who asked may have stopped waiting.
        request.reply.send(Err(failed.clone())).ok();
    }
}

pub(super) fn wall_clock() -> Timestamp {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
    let millis = since_1970.map_or(0, |since| since.as_millis());
    Timestamp::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
}
