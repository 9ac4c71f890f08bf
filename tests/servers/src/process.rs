//! A server process that ends with whoever started it, however that ends.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

/// How long a server may take to open its port.
const START_WAIT: Duration = Duration::from_secs(90);

/// Runs a server, waits until its standard input says how to go on or ends, then kills it. So it cannot
/// outlive a test process that was killed, and the directory of one that ended is removed.
const KEEPER: &str = r#"
trap : INT TERM HUP
"$@" >>"$SERVER_LOG" 2>&1 </dev/null &
server=$!
echo "$server"
read -r word || word=end
kill -9 "$server" 2>/dev/null
wait "$server" 2>/dev/null
[ "$word" = keep ] || rm -rf -- "$SERVER_DIR"
"#;

/// A server with a directory of its own.
#[derive(Debug)]
pub(crate) struct Server {
    dir: PathBuf,
    command: Vec<String>,
    port: u16,
    keeper: Option<Child>,
    pid: u32,
}

impl Server {
    /// Starts a server that will open this port of 127.0.0.1.
    pub(crate) fn start(dir: PathBuf, command: Vec<String>, port: u16) -> anyhow::Result<Self> {
        let mut server = Self {
            dir,
            command,
            port,
            keeper: None,
            pid: 0,
        };
        server.begin()?;
        Ok(server)
    }

    fn begin(&mut self) -> anyhow::Result<()> {
        let mut keeper = Command::new("sh")
            .args(["-c", KEEPER, "keeper"])
            .args(&self.command)
            // TiDB writes a log of slow statements where it is started.
            .current_dir(&self.dir)
            .env("SERVER_LOG", self.log())
            .env("SERVER_DIR", &self.dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run sh")?;
        let stdout = keeper.stdout.take().context("the keeper has no output")?;
        let mut pid = String::new();
        BufReader::new(stdout).read_line(&mut pid)?;
        self.pid = pid.trim().parse().context("the keeper names no process")?;
        self.keeper = Some(keeper);
        self.wait_for_port()
    }

    fn wait_for_port(&mut self) -> anyhow::Result<()> {
        let start = Instant::now();
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        while TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err() {
            let log = || std::fs::read_to_string(self.log()).unwrap_or_default();
            if !Path::new(&format!("/proc/{}/exe", self.pid)).exists() {
                bail!("{} ended at its start:\n{}", self.command[0], log());
            }
            if start.elapsed() > START_WAIT {
                bail!("{} opened no port in time:\n{}", self.command[0], log());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn log(&self) -> PathBuf {
        self.dir.join("server.log")
    }

    /// The directory, with the server's files.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The process.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends a signal (`STOP`, `CONT`, `TERM`).
    pub(crate) fn signal(&self, name: &str) -> anyhow::Result<()> {
        let status = Command::new("kill")
            .args([&format!("-{name}"), &self.pid.to_string()])
            .status()?;
        if !status.success() {
            bail!("cannot send SIG{name} to {}", self.command[0]);
        }
        Ok(())
    }

    /// `kill -9`; what it has written stays.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        self.end("keep")
    }

    /// Starts it again on what it has written, in the same place.
    pub(crate) fn restart(&mut self) -> anyhow::Result<()> {
        self.kill()?;
        self.begin()
    }

    fn end(&mut self, word: &str) -> anyhow::Result<()> {
        let Some(mut keeper) = self.keeper.take() else {
            return Ok(());
        };
        if let Some(mut stdin) = keeper.stdin.take() {
            // One that was killed itself is gone anyway.
            writeln!(stdin, "{word}").ok();
        }
        keeper.wait()?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let kept = self.end("keep");
            println!(
                "{kept:?}: the log of {} is {}",
                self.command[0],
                self.log().display()
            );
        } else {
            // Whoever ends now cannot do more about it.
            self.end("end").ok();
        }
    }
}

/// A directory for a server; its keeper removes it.
pub(crate) fn directory(name: &str) -> anyhow::Result<PathBuf> {
    let dir = tempfile::Builder::new()
        .prefix(&format!("workload-test-{name}-"))
        .tempdir()?;
    Ok(dir.keep())
}

/// Ports of 127.0.0.1 that were free a moment ago.
///
/// # Errors
/// No port can be had.
pub fn free_ports<const N: usize>() -> anyhow::Result<[u16; N]> {
    let mut listeners = Vec::new();
    let mut ports = [0; N];
    for port in &mut ports {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        *port = listener.local_addr()?.port();
        // All are held until all are known, so that no port comes twice.
        listeners.push(listener);
    }
    Ok(ports)
}
