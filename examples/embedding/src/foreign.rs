//! The scheduler for a program on another runtime, or on none: it lives on a tokio runtime of its own.

use scheduler_core::{Config, Error, Ports, Scheduler};
use tokio::runtime::{Builder, Runtime};

/// A scheduler on a runtime of its own. What is run on it can be awaited anywhere.
#[derive(Debug)]
pub struct Foreign {
    runtime: Runtime,
    scheduler: Scheduler,
}

impl Foreign {
    /// Starts one on one thread, which waits until it is ready. `ports` is called on its runtime, since ports may need
    /// one as well.
    ///
    /// # Errors
    /// As [`Scheduler::start`], or the system gives no thread.
    pub fn start(config: Config, ports: impl FnOnce() -> Ports) -> anyhow::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let scheduler = runtime.block_on(async { Scheduler::start(config, ports()).await })?;
        Ok(Self { runtime, scheduler })
    }

    /// Runs a call, and gives its answer to whoever polls: no runtime is needed there.
    ///
    /// # Errors
    /// What the call says, or that it was stopped.
    pub async fn run<T, F>(
        &self,
        call: impl FnOnce(Scheduler) -> F + Send + 'static,
    ) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let scheduler = self.scheduler.clone();
        let running = self.runtime.spawn(async { call(scheduler).await });
        match running.await {
            Ok(answer) => answer,
            Err(err) => Err(Error::Internal(err.to_string())),
        }
    }

    /// Stops in good order.
    pub fn shutdown(self) {
        self.runtime.block_on(self.scheduler.shutdown());
    }
}
