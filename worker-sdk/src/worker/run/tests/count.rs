//! Handlers that never end, and how many of them there are.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// Counts handlers that are there.
#[derive(Clone, Default)]
pub(super) struct Count(pub(super) Arc<AtomicUsize>);

impl Count {
    fn enter(&self) -> Inside {
        self.0.fetch_add(1, Ordering::SeqCst);
        Inside(self.clone())
    }

    pub(super) async fn becomes(&self, n: usize) {
        let reached = async {
            while self.0.load(Ordering::SeqCst) != n {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(Duration::from_secs(1), reached)
            .await
            .expect("handlers come and go in time");
    }
}

struct Inside(Count);

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A handler that never ends, and how many of its futures there are.
pub(super) fn endless() -> (impl Handler, Count) {
    let count = Count::default();
    let counted = count.clone();
    let handler = move |_: TaskContext| {
        let inside = counted.enter();
        async move {
            let _inside = inside;
            std::future::pending::<Outcome>().await
        }
    };
    (handler, count)
}
