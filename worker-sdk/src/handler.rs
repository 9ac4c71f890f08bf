//! What a user writes: how one task is run.

use std::future::Future;

use crate::{Outcome, TaskContext};

/// Runs the tasks of one pipeline.
///
/// Delivery is at least once: the same task can arrive again, on any worker. The future is dropped at
/// an `.await` once its lease is lost, the task is cancelled or its time is up; a panic fails the
/// attempt with the code `panic`. What runs apart from the future (a thread, a process) must be ended
/// by its drop, or by watching [`TaskContext::cancelled`].
///
/// A closure `Fn(TaskContext) -> impl Future<Output = impl Into<Outcome>>` is a handler too.
///
/// ```
/// use worker_sdk::{Handler, Outcome, TaskContext, testing};
///
/// struct Add;
///
/// impl Handler for Add {
///     async fn run(&self, ctx: TaskContext) -> Outcome {
///         match ctx.data::<[i64; 2]>() {
///             Ok([a, b]) => Outcome::completed(&(a + b)),
///             Err(err) => Outcome::failed("bad_data", err),
///         }
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// assert_eq!(testing::run_once(Add, &[1, 2]).await, Outcome::completed(&3));
/// # }
/// ```
pub trait Handler: Send + Sync + 'static {
    /// Runs one task.
    fn run(&self, ctx: TaskContext) -> impl Future<Output = Outcome> + Send;
}

impl<F, R> Handler for F
where
    F: Fn(TaskContext) -> R + Send + Sync + 'static,
    R: Future<Output: Into<Outcome>> + Send,
{
    async fn run(&self, ctx: TaskContext) -> Outcome {
        self(ctx).await.into()
    }
}
