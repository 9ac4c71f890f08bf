//! When a process is asked to end.

use tokio::signal::unix::{SignalKind, signal};

/// Waits for SIGTERM or SIGINT. Where signals cannot be had, it waits forever.
pub async fn signalled() {
    let listen = |kind| signal(kind).ok();
    let (mut terminate, mut interrupt) = (
        listen(SignalKind::terminate()),
        listen(SignalKind::interrupt()),
    );
    let once = |signal: Option<tokio::signal::unix::Signal>| async move {
        match signal {
            Some(mut signal) => signal.recv().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = once(terminate.take()) => {}
        _ = once(interrupt.take()) => {}
    }
}
