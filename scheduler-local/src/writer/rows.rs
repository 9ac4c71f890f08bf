//! Statements that write many rows at once, in few sizes, so that they stay prepared.

use std::sync::{Arc, OnceLock};

use sqlx::{AssertSqlSafe, SqliteConnection, query::Query, sqlite::SqliteArguments};

/// Rows per statement, the greatest first. Nine columns of 256 rows are below SQLite's 32,766 parameters.
const SIZES: [usize; 4] = [256, 32, 4, 1];

/// A query whose parameters are being bound.
pub(super) type Binding = Query<'static, sqlx::Sqlite, SqliteArguments>;

/// `INSERT` or `REPLACE` into one table.
#[derive(Debug)]
pub(super) struct Insert {
    head: &'static str,
    n_columns: usize,
    sql: [OnceLock<Arc<str>>; SIZES.len()],
}

impl Insert {
    /// `head` is the statement up to the word `VALUES`.
    pub(super) const fn new(head: &'static str, n_columns: usize) -> Self {
        Self {
            head,
            n_columns,
            sql: [const { OnceLock::new() }; SIZES.len()],
        }
    }

    /// Writes all rows, in their order.
    pub(super) async fn run<T>(
        &self,
        db: &mut SqliteConnection,
        rows: &[T],
        bind: impl Fn(Binding, &T) -> Binding,
    ) -> Result<(), sqlx::Error> {
        let mut rest = rows;
        for (size, sql) in SIZES.into_iter().zip(&self.sql) {
            while rest.len() >= size {
                let (now, later) = rest.split_at(size);
                let sql = sql.get_or_init(|| self.statement(size));
                // The text is made of constants only.
                let mut query = sqlx::query(AssertSqlSafe(Arc::clone(sql)));
                for row in now {
                    query = bind(query, row);
                }
                query.execute(&mut *db).await?;
                rest = later;
            }
        }
        Ok(())
    }

    fn statement(&self, n_rows: usize) -> Arc<str> {
        let row = format!("({})", vec!["?"; self.n_columns].join(","));
        format!("{} VALUES {}", self.head, vec![row; n_rows].join(",")).into()
    }
}
