//! Starts the service, sends three mails, and stops. `tests/output.rs` asserts what it prints.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::{sync::Arc, time::Duration};

use embedding::{Counted, Mailer};
use scheduler_core::{Config, Ports, Scheduler, memory};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // Memory for everything, but for a store of our own.
    let memory = memory::ports();
    let store = Arc::new(Counted::new(memory.store.clone()));
    let ports = Ports {
        store: store.clone(),
        ..memory
    };
    let scheduler = Scheduler::start(Config::default(), ports).await?;
    let mailer = Mailer::start(scheduler.clone()).await?;
    let worker = tokio::spawn(mailer.clone().work());

    let mut ids = Vec::new();
    for to in ["ada@example.org", "grace", "edsger@example.org"] {
        ids.push((to, mailer.send(to).await?));
    }
    for (to, id) in ids {
        let task = mailer.wait(id, Duration::from_secs(30)).await?;
        let why = task
            .errors
            .last()
            .map(|error| error.failure.message.as_str());
        let why = why.map_or(String::new(), |why| format!(", since {why}"));
        println!("mail to {to}: {}{why}", task.state.as_str());
    }

    // Saves what is unsaved, and answers the worker's open poll.
    scheduler.shutdown().await;
    worker.await?;
    println!("ends saved: {}", store.n_ended());
    Ok(())
}
