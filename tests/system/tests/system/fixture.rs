//! `workload dev` as a process with a directory of its own, and the HTTP API as tests call it.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

/// How long a process may take to start, and a condition to come true.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A program that cargo built.
pub(crate) fn binary(name: &str) -> PathBuf {
    // Tests lie in target/<profile>/deps.
    let own = std::env::current_exe().unwrap();
    let binary = own.parent().unwrap().parent().unwrap().join(name);
    assert!(
        binary.is_file(),
        "{} is missing; build it by: cargo build --workspace --bins",
        binary.display()
    );
    binary
}

/// The HTTP API at an address.
#[derive(Debug, Clone)]
pub(crate) struct Http {
    pub(crate) http: String,
    agent: ureq::Agent,
}

/// A running `workload dev`; killed when dropped.
pub(crate) struct Dev {
    process: Child,
    api: Http,
    pub(crate) grpc: String,
}

impl std::ops::Deref for Dev {
    type Target = Http;

    fn deref(&self) -> &Http {
        &self.api
    }
}

impl Dev {
    pub(crate) fn start(data: &Path) -> Self {
        Self::start_with(data, &["--grpc", "127.0.0.1:0"], None)
    }

    /// Starts it with more arguments, behind another program (`strace …`) if one is given.
    pub(crate) fn start_with(data: &Path, arguments: &[&str], behind: Option<&[&str]>) -> Self {
        let workload = binary("workload");
        let mut command = match behind {
            Some([program, rest @ ..]) => {
                let mut command = Command::new(program);
                command.args(rest).arg(workload);
                command
            }
            _ => Command::new(workload),
        };
        let log = std::fs::File::create(data.with_extension("log")).unwrap();
        let mut process = command
            // From its own directory and by a relative path, as in `workload dev` without arguments.
            .current_dir(data.parent().unwrap())
            .args(["dev", "--http", "127.0.0.1:0", "--data"])
            .arg(data.file_name().unwrap())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let stdout = process.stdout.take().unwrap();
        let (found, addresses) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                for what in ["HTTP API", "gRPC API"] {
                    if let Some((_, address)) = line.split_once(what) {
                        // The test may have ended.
                        found.send((what, address.trim().to_owned())).ok();
                    }
                }
            }
        });
        let mut dev = Self {
            process,
            api: Http::at(String::new()),
            grpc: String::new(),
        };
        while dev.http.is_empty() || dev.grpc.is_empty() {
            match addresses.recv_timeout(PATIENCE) {
                Ok(("HTTP API", address)) => dev.api = Http::at(address),
                Ok((_, address)) => dev.grpc = address,
                Err(_) => panic!(
                    "workload dev did not start: {}",
                    std::fs::read_to_string(data.with_extension("log")).unwrap_or_default()
                ),
            }
        }
        dev
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// `kill -9`.
    pub(crate) fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Ends it as a user would.
    pub(crate) fn stop(mut self) {
        signal(self.process.id(), "TERM");
        let status = wait_until("it ends", || self.process.try_wait().unwrap());
        assert!(status.success(), "ended with {status}");
    }
}

impl Http {
    pub(crate) fn at(http: String) -> Self {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(PATIENCE))
            .max_idle_connections_per_host(64)
            .build()
            .new_agent();
        Self { http, agent }
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        Answer::of(self.agent.get(format!("{}{path}", self.http)).call())
    }

    /// Begins to read a stream of events, if there is one; it ends a minute later at most.
    pub(crate) fn events(&self, path: &str) -> Option<impl BufRead + use<>> {
        let answer = self.agent.get(format!("{}{path}", self.http)).call();
        let answer = answer.ok().filter(|answer| answer.status() == 200)?;
        Some(BufReader::new(answer.into_body().into_reader()))
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_text(path, &body.to_string())
    }

    pub(crate) fn post_text(&self, path: &str, body: &str) -> Answer {
        Answer::of(self.agent.post(format!("{}{path}", self.http)).send(body))
    }

    pub(crate) fn delete(&self, path: &str) -> Answer {
        Answer::of(self.agent.delete(format!("{}{path}", self.http)).call())
    }

    pub(crate) fn post_with(&self, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut request = self.agent.post(format!("{}{path}", self.http));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Answer::of(request.send(body))
    }

    /// Creates pipeline `app/NAME` with these steps.
    /// Runs the command line, and gives its exit code and what it printed, as JSON.
    pub(crate) fn cli(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = Command::new(binary("workload"))
            .args(["--server", &self.http, "-o", "json"])
            .args(arguments)
            .output()
            .unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        (output.status.code(), printed)
    }

    pub(crate) fn create(&self, name: &str, steps: Value, options: Value) {
        let body = json!({"name": name, "pipeline": steps, "options": options});
        let created = self.post("/api/applications/app/pipelines", &body);
        assert_eq!(created.status, 202, "{:#}", created.body);
    }

    /// Submits to `app/NAME` and gives the id.
    pub(crate) fn submit(&self, name: &str, data: &Value) -> String {
        let submitted = self.post(&format!("/api/applications/app/pipelines/{name}"), data);
        assert_eq!(submitted.status, 202, "{:#}", submitted.body);
        submitted.body["id"].as_str().unwrap().to_owned()
    }

    pub(crate) fn task(&self, id: &str) -> Value {
        let answer = self.get(&format!("/api/applications/app/tasks/{id}"));
        assert_eq!(answer.status, 200, "{:#}", answer.body);
        answer.body
    }

    /// Waits until a task has ended.
    pub(crate) fn ended(&self, id: &str) -> Value {
        wait_until("the task ends", || {
            let task = self
                .get(&format!("/api/applications/app/tasks/{id}?wait=10s"))
                .body;
            task["ended_at"].is_string().then_some(task)
        })
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // After a good end both fail, which is fine.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// An answer of the API; status 0 if there was none.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) media_type: String,
    /// When to try again, in seconds.
    pub(crate) retry_after: Option<u64>,
    pub(crate) body: Value,
}

impl Answer {
    fn of(response: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Self {
        let none = Self {
            status: 0,
            media_type: String::new(),
            retry_after: None,
            body: Value::Null,
        };
        let Ok(mut response) = response else {
            return none;
        };
        let media_type = response.headers().get("content-type");
        let media_type = media_type
            .map_or("", |value| value.to_str().unwrap())
            .to_owned();
        let retry_after = response.headers().get("retry-after");
        let retry_after = retry_after.map(|value| value.to_str().unwrap().parse().unwrap());
        let Ok(text) = response.body_mut().read_to_string() else {
            return none;
        };
        Self {
            status: response.status().as_u16(),
            media_type,
            retry_after,
            body: serde_json::from_str(&text).unwrap_or(Value::String(text)),
        }
    }
}

/// Sends a signal to a process that this test started.
pub(crate) fn signal(pid: u32, name: &str) {
    let status = Command::new("kill")
        .args([format!("-{name}"), pid.to_string()])
        .status()
        .unwrap();
    assert!(status.success());
}

/// Asks again and again until there is an answer.
pub(crate) fn wait_until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < PATIENCE, "waited too long until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A directory for `workload dev`; its log lies beside it.
pub(crate) fn data_in(home: &tempfile::TempDir) -> PathBuf {
    home.path().join("data")
}
