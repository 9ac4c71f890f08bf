//! TiDB with its embedded engine: the real SQL layer in one process.

use std::path::Path;

use crate::{
    Proxy, fetch_tidb,
    process::{Server, directory, free_ports},
};

/// A TiDB server.
#[derive(Debug)]
pub struct Tidb {
    url: String,
    own: Option<(Server, Proxy)>,
}

impl Tidb {
    /// The one that `TIDB_URL` names, if it is set.
    #[must_use]
    pub fn from_environment() -> Option<Self> {
        let url = std::env::var("TIDB_URL").ok()?;
        Some(Self { url, own: None })
    }

    /// Starts one of its own.
    ///
    /// # Errors
    /// It cannot be built or does not start; says why.
    pub fn start() -> anyhow::Result<Self> {
        let program = fetch_tidb()?;
        let dir = directory("tidb")?;
        let [port, status_port] = free_ports()?;
        let command = [
            &program.display().to_string(),
            "--store=unistore",
            &format!("--path={}", dir.join("data").display()),
            "--host=127.0.0.1",
            "-P",
            &port.to_string(),
            "--status-host=127.0.0.1",
            &format!("--status={status_port}"),
            &format!("--socket={}", dir.join("tidb.sock").display()),
        ];
        let command = command.iter().map(ToString::to_string).collect();
        let server = Server::start(dir, command, port)?;
        let proxy = Proxy::to(([127, 0, 0, 1], port).into())?;
        Ok(Self {
            url: format!("mysql://root@127.0.0.1:{port}"),
            own: Some((server, proxy)),
        })
    }

    /// Where it is reached, without a database.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where it is reached through its proxy.
    ///
    /// # Panics
    /// If it is not of its own.
    #[must_use]
    pub fn proxied_url(&self) -> String {
        format!("mysql://root@{}", self.proxy().address())
    }

    /// The proxy before it.
    ///
    /// # Panics
    /// If it is not of its own.
    #[must_use]
    pub fn proxy(&self) -> &Proxy {
        &self.own().1
    }

    fn own(&self) -> &(Server, Proxy) {
        let own = self.own.as_ref();
        own.expect("only a server that was started here can be broken")
    }

    fn own_mut(&mut self) -> &mut Server {
        let own = self.own.as_mut();
        &mut own
            .expect("only a server that was started here can be broken")
            .0
    }

    /// Its process.
    ///
    /// # Panics
    /// If it is not of its own.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.own().0.pid()
    }

    /// Its directory.
    ///
    /// # Panics
    /// If it is not of its own.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.own().0.dir()
    }

    /// Sends a signal: `STOP`, `CONT`.
    ///
    /// # Errors
    /// The process is gone.
    pub fn signal(&self, name: &str) -> anyhow::Result<()> {
        self.own().0.signal(name)
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// It could not be waited for.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.own_mut().kill()
    }

    /// Starts it again where it was, after `kill -9` if it runs.
    ///
    /// # Errors
    /// It does not start.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.own_mut().restart()
    }
}
