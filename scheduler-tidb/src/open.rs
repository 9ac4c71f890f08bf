//! Opening: connects, looks what the server is, and makes the tables.

use std::sync::Arc;

use scheduler_core::port::{Catalog, TaskStore};
use sqlx::mysql::MySqlConnectOptions;

use crate::{
    catalog::TidbCatalog,
    config::Config,
    error::{OpenError, number},
    migrate,
    row::value,
    session::{Pool, Session},
    store::TidbStore,
};

const NO_SUCH_DATABASE: u16 = 1049;
const NO_SUCH_VARIABLE: u16 = 1193;
/// The first version that ends transactions whose client has gone silent.
const VERSION_MIN: (u32, u32) = (7, 6);

/// An open database. Its connections are closed when this and all ports that it gave are dropped.
#[derive(Debug)]
pub struct Tidb {
    store: Arc<TidbStore>,
    catalog: Arc<TidbCatalog>,
}

impl Tidb {
    /// Connects, makes the database and the tables if they are missing, and brings older ones up to date.
    /// Several members may do so at once, and older members work on meanwhile.
    ///
    /// Must be called on a Tokio runtime, on which the catalogue is watched.
    ///
    /// # Errors
    /// [`OpenError`] if the configuration is wrong, if there is no TiDB, or if it refuses. What was
    /// stored has not changed then.
    pub async fn open(config: Config) -> Result<Self, OpenError> {
        let options = config.options()?;
        let server = config.server();
        let pool = Arc::new(Pool::new(options.clone(), &config));
        let mut session = match pool.session().await {
            Err(err) if number(&err) == Some(NO_SUCH_DATABASE) => {
                make_database(&config, options)
                    .await
                    .map_err(|err| refused(&server, err))?;
                pool.session().await
            }
            session => session,
        }
        .map_err(|err| refused(&server, err))?;
        check_version(&mut session, &server).await?;
        let migrated = migrate::run(&mut session).await;
        migrated.map_err(|source| OpenError::Migrate {
            server,
            source: source.into(),
        })?;
        drop(session);
        Ok(Self {
            store: Arc::new(TidbStore::new(Arc::clone(&pool), config.call_timeout)),
            catalog: Arc::new(TidbCatalog::new(
                pool,
                config.call_timeout,
                config.poll_interval,
            )),
        })
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> Arc<dyn TaskStore> {
        Arc::clone(&self.store) as _
    }

    /// The catalogue.
    #[must_use]
    pub fn catalog(&self) -> Arc<dyn Catalog> {
        Arc::clone(&self.catalog) as _
    }
}

fn refused(server: &str, err: sqlx::Error) -> OpenError {
    let server = server.to_owned();
    if number(&err) == Some(NO_SUCH_VARIABLE) {
        let found = format!("another database or an older TiDB ({err})");
        return OpenError::NotTidb { server, found };
    }
    let source = err.into();
    OpenError::Unreachable { server, source }
}

async fn make_database(config: &Config, options: MySqlConnectOptions) -> Result<(), sqlx::Error> {
    let name = options.get_database().unwrap_or_default().to_owned();
    let pool = Arc::new(Pool::new(options.database(""), config));
    let make = format!("CREATE DATABASE IF NOT EXISTS `{name}`");
    pool.session().await?.execute(make).await.map(|_| ())
}

async fn check_version(session: &mut Session, server: &str) -> Result<(), OpenError> {
    let read = "SELECT VERSION()".to_owned();
    let rows = session
        .rows(read)
        .await
        .map_err(|err| refused(server, err))?;
    let version = rows.first().map(|row| value::<String>(row, 0));
    let version = version.and_then(Result::ok).unwrap_or_default();
    if is_supported(&version) {
        return Ok(());
    }
    Err(OpenError::NotTidb {
        server: server.to_owned(),
        found: version,
    })
}

/// Whether `8.0.11-TiDB-v8.4.0` is new enough. A TiDB that was built without a version is taken as it is.
fn is_supported(version: &str) -> bool {
    let Some((_, own)) = version.split_once("TiDB") else {
        return false;
    };
    let mut numbers = own
        .trim_start_matches(['-', 'v'])
        .split(['.', '-'])
        .map_while(|part| part.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) => (major, minor) >= VERSION_MIN,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_tidb_that_is_new_enough_is_taken() {
        for good in [
            "8.0.11-TiDB-v8.4.0",
            "8.0.11-TiDB-v7.6.0-serverless",
            "8.0.11-TiDB-v8.5.0-alpha-12-gabc",
            "8.0.11-TiDB-None",
        ] {
            assert!(is_supported(good), "{good}");
        }
        for bad in ["8.0.36", "5.7.25-TiDB-v6.5.2", "10.11.6-MariaDB", ""] {
            assert!(!is_supported(bad), "{bad}");
        }
    }
}
