//! Makes the tables, or brings them to this program's schema.
//!
//! Not sqlx's migrator: that one leaves a schema that was cut short for people to mend, because DDL
//! has no transaction. Here every statement can be run again, so a migration that was cut short, or
//! that two members run at once, ends well. Migrations only add, so older members work on meanwhile.

use std::time::Duration;

use crate::{
    error::{Cause, number},
    session::Session,
};

/// All migrations, oldest first. One that was released is never changed.
const MIGRATIONS: [&str; 4] = [
    include_str!("../migrations/0001_initial.sql"),
    include_str!("../migrations/0002_mode.sql"),
    include_str!("../migrations/0003_keys_limits.sql"),
    include_str!("../migrations/0004_cancels.sql"),
];
/// DDL waits for every server of the cluster.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(60);

/// How often it begins, after waits that grow by this.
const TRIES_MAX: u32 = 10;
const RETRY_WAIT: Duration = Duration::from_millis(50);

const NO_SUCH_TABLE: u16 = 1146;
/// A table, column, index or view that is there already.
const IS_THERE: [u16; 3] = [1050, 1060, 1061];

/// Brings the tables up to date. Where other members get in the way it begins again.
pub(crate) async fn run(session: &mut Session) -> Result<(), sqlx::Error> {
    session.allow(STATEMENT_TIMEOUT);
    for n_tries in 1..TRIES_MAX {
        match run_once(session).await {
            Err(err) if can_pass(&err) => {
                tracing::debug!(%err, n_tries, "migration tried again");
                tokio::time::sleep(RETRY_WAIT * n_tries).await;
            }
            done => return done,
        }
    }
    run_once(session).await
}

/// Whether another member gets in the way: by a conflict, or by a table that it is making and that is not seen
/// here yet.
fn can_pass(err: &sqlx::Error) -> bool {
    Cause::of(err) == Cause::Conflict || number(err) == Some(NO_SUCH_TABLE)
}

async fn run_once(session: &mut Session) -> Result<(), sqlx::Error> {
    let n_done = count(session).await?;
    for (migration, n) in MIGRATIONS.iter().zip(1_u32..).skip(n_done) {
        for statement in statements(migration) {
            match session.execute(statement).await {
                Err(err) if number(&err).is_some_and(|number| IS_THERE.contains(&number)) => {}
                done => {
                    done?;
                }
            }
        }
        let record = format!(
            "INSERT IGNORE INTO migration (number, done_at) VALUES ({n}, UTC_TIMESTAMP(3))"
        );
        session.execute(record).await?;
        tracing::info!(migration = n, "tables migrated");
    }
    Ok(())
}

/// How many migrations are done.
async fn count(session: &mut Session) -> Result<usize, sqlx::Error> {
    let read = "SELECT COALESCE(MAX(number), 0) FROM migration";
    let rows = match session.rows(read.to_owned()).await {
        Err(err) if number(&err) == Some(NO_SUCH_TABLE) => {
            let make = "CREATE TABLE IF NOT EXISTS migration (number INT UNSIGNED NOT NULL PRIMARY KEY, \
                done_at DATETIME(3) NOT NULL) COMMENT 'which changes of the tables were made'";
            session.execute(make).await?;
            return Ok(0);
        }
        rows => rows?,
    };
    let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
    let n: u32 = crate::row::value(row, 0)?;
    // A newer member was here; what it added does not concern this program.
    Ok(usize::try_from(n).unwrap_or(usize::MAX))
}

/// The statements of a script: each ends with a semicolon at the end of a line.
fn statements(script: &str) -> impl Iterator<Item = String> {
    let lines = script.lines().filter(|line| !line.starts_with("--"));
    let text = lines.collect::<Vec<_>>().join("\n");
    let statements: Vec<_> = text
        .split(";\n")
        .map(|text| text.trim().to_owned())
        .collect();
    statements
        .into_iter()
        .map(|text| text.trim_end_matches(';').to_owned())
        .filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_are_cut_into_statements() {
        let found: Vec<_> = statements("-- why\n\nSELECT 1;\nSELECT ';'\n  AS a;\n").collect();
        assert_eq!(found, ["SELECT 1", "SELECT ';'\n  AS a"]);
    }

    #[test]
    fn every_statement_can_be_run_again() {
        for statement in MIGRATIONS.iter().flat_map(|script| statements(script)) {
            let again = ["IF NOT EXISTS", "OR REPLACE VIEW", "INSERT IGNORE"];
            assert!(
                again.iter().any(|word| statement.contains(word)),
                "{statement}"
            );
        }
    }
}
