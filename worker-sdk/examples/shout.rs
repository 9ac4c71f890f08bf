//! A whole worker: makes each task's text loud. Stops on SIGTERM or Ctrl-C.
#![expect(clippy::print_stdout, reason = "it shouts")]

use worker_sdk::{Failure, TaskContext, Worker};

#[tokio::main]
async fn main() -> Result<(), worker_sdk::Error> {
    let shout = |ctx: TaskContext| async move {
        let data: serde_json::Value = ctx.data()?;
        let text = data["text"].as_str().ok_or("there is no text")?;
        println!("{}!", text.to_uppercase());
        Ok::<_, Failure>(text.len())
    };
    let worker = Worker::builder("shop", "shout").build(shout)?;
    worker.run().await
}
