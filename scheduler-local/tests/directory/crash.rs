//! However a process ends, what it acknowledged before is there after.

use std::{
    io::{self, BufRead},
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Command, Stdio},
};

use crate::fixture::{append, config, open_with_log, read_all};

const DIRECTORY: &str = "WORKLOAD_TEST_FAILING_DIRECTORY";
const SIGABRT: i32 = 6;
/// The process may write no file beyond this: the write-ahead log gets there first.
const FILE_KIB_MAX: u32 = 2_048;

/// Not a test by itself: the process that the tests below start and end.
#[tokio::test]
#[expect(
    clippy::print_stdout,
    reason = "tells the other process what was acknowledged"
)]
async fn the_process_that_appends_until_it_ends() {
    let Ok(directory) = std::env::var(DIRECTORY) else {
        return;
    };
    let local = open_with_log(config(directory.as_ref())).await;
    for n in 0..1_000 {
        append(&local, vec![b'x'; 10_000]).await.unwrap();
        println!("acknowledged {n}");
    }
}

fn appending(directory: &Path, before: &str) -> Command {
    let mut child = Command::new("bash");
    child
        .args(["-c", &format!("{before} exec \"$0\" \"$@\"")])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture"])
        .arg("crash::the_process_that_appends_until_it_ends")
        .env(DIRECTORY, directory)
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    child
}

fn is_acknowledgement(line: &io::Result<String>) -> bool {
    line.as_ref()
        .is_ok_and(|line| line.contains("acknowledged"))
}

#[tokio::test]
async fn a_failed_write_ends_the_process_and_loses_nothing_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    // Bash counts `ulimit -f` in KiB. The signal is ignored, so that the write fails instead.
    let limit = format!("trap '' XFSZ; ulimit -f {FILE_KIB_MAX};");
    let child = appending(directory.path(), &limit).output().unwrap();
    let acknowledged = child.stdout.lines().filter(is_acknowledgement).count();
    assert_eq!(child.status.signal(), Some(SIGABRT));
    assert!((10..1_000).contains(&acknowledged), "{acknowledged}");

    let local = open_with_log(config(directory.path())).await;
    let kept = read_all(&local).await.unwrap().len();
    assert!(kept >= acknowledged, "{kept} of {acknowledged} are left");
    local.close().await;
}

#[tokio::test]
async fn a_killed_process_loses_nothing_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    for n_before_kill in [1, 30, 200] {
        let mut child = appending(directory.path(), "").spawn().unwrap();
        let mut lines = io::BufReader::new(child.stdout.take().unwrap()).lines();
        let seen = lines
            .by_ref()
            .filter(is_acknowledgement)
            .take(n_before_kill);
        acknowledged += seen.count();
        child.kill().unwrap();
        acknowledged += lines.filter(is_acknowledgement).count();
        child.wait().unwrap();
        let local = open_with_log(config(directory.path())).await;
        let kept = read_all(&local).await.unwrap().len();
        assert!(kept >= acknowledged, "{kept} of {acknowledged} are left");
        local.close().await;
    }
}
