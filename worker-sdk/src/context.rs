//! What a handler knows of its task, and how it gives signs of life.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use scheduler_core::{LeasedTask, TaskId};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

/// The largest progress in bytes of JSON.
pub const PROGRESS_LEN_MAX: usize = 256 * 1024;

/// Data that are not what the handler expects, or progress that cannot be sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// It is not the JSON that is expected.
    #[error("the data are not what the handler expects: {0}")]
    Json(#[from] serde_json::Error),
    /// The progress is too large.
    #[error("progress must have at most {PROGRESS_LEN_MAX} bytes and has {0}")]
    TooLarge(usize),
}

/// A sign of life that was not sent yet. A newer one takes its place, so that it stays small.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Beat {
    pub(crate) given: bool,
    pub(crate) progress: Option<Bytes>,
}

/// What a context and its worker share.
#[derive(Debug)]
pub(crate) struct Link {
    beat: Mutex<Beat>,
    cancelled: watch::Sender<bool>,
    wake: Arc<Notify>,
}

impl Link {
    pub(crate) fn new(wake: Arc<Notify>) -> Self {
        Self {
            beat: Mutex::default(),
            cancelled: watch::Sender::new(false),
            wake,
        }
    }

    pub(crate) fn cancel(&self) {
        self.cancelled.send_replace(true);
    }

    /// Whether a sign waits to be sent.
    pub(crate) fn has_beat(&self) -> bool {
        self.with_beat(|beat| beat.given)
    }

    pub(crate) fn take_beat(&self) -> Beat {
        self.with_beat(std::mem::take)
    }

    /// Puts a sign back that could not be sent, unless there is a newer one.
    pub(crate) fn put_back(&self, unsent: Beat) {
        self.with_beat(|beat| {
            beat.given |= unsent.given;
            if beat.progress.is_none() {
                beat.progress = unsent.progress;
            }
        });
    }

    fn with_beat<T>(&self, use_it: impl FnOnce(&mut Beat) -> T) -> T {
        // Nothing that holds the lock can panic half way.
        use_it(&mut self.beat.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A leased task, as its handler sees it; clones are the same one.
#[derive(Debug, Clone)]
pub struct TaskContext {
    task: Arc<LeasedTask>,
    deadline: Option<Instant>,
    link: Arc<Link>,
}

impl TaskContext {
    pub(crate) fn new(task: LeasedTask, deadline: Option<Instant>, link: Arc<Link>) -> Self {
        Self {
            task: Arc::new(task),
            deadline,
            link,
        }
    }

    /// What was submitted, as the type that the handler expects.
    ///
    /// # Errors
    /// [`DataError::Json`], if it is something else.
    pub fn data<T: DeserializeOwned>(&self) -> Result<T, DataError> {
        Ok(serde_json::from_slice(&self.task.data)?)
    }

    /// What was submitted: JSON, as it was given.
    #[must_use]
    pub fn data_bytes(&self) -> &Bytes {
        &self.task.data
    }

    /// The task's id: the same in every attempt.
    #[must_use]
    pub fn id(&self) -> TaskId {
        self.task.id
    }

    /// Which attempt this is, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.task.attempt
    }

    /// How many attempts there are at most.
    #[must_use]
    pub fn max_attempts(&self) -> u32 {
        self.task.max_attempts
    }

    /// The lease's token: it only grows from one run of a task to the next, so whoever is written to
    /// can refuse a writer with a smaller one.
    #[must_use]
    pub fn lease_token(&self) -> u64 {
        self.task.token.to_u64()
    }

    /// The revision of the pipeline that this task is to be run with.
    #[must_use]
    pub fn pipeline_revision(&self) -> u64 {
        self.task.revision.0
    }

    /// When the attempt's time is up, if it has a timeout. The future is dropped then.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// How long the handler may be silent, if that is limited.
    #[must_use]
    pub fn heartbeat_timeout(&self) -> Option<Duration> {
        self.task.heartbeat_timeout
    }

    /// W3C `traceparent` of the submit.
    #[must_use]
    pub fn traceparent(&self) -> Option<&str> {
        self.task.traceparent.as_deref()
    }

    /// The small values that travel with the task.
    pub fn metadata(&self) -> impl Iterator<Item = (&str, &str)> {
        let metadata: Option<&BTreeMap<String, String>> = self
            .task
            .options
            .as_deref()
            .map(|options| &options.metadata);
        let entries = metadata.into_iter().flatten();
        entries.map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Gives a sign of life with how far the task is, in place of the one before. Sent soon, in a
    /// batch with others; nobody waits.
    ///
    /// # Errors
    /// [`DataError`], if it does not serialise or is larger than [`PROGRESS_LEN_MAX`]. The sign
    /// itself is given in any case.
    pub fn heartbeat<T: Serialize + ?Sized>(&self, progress: &T) -> Result<(), DataError> {
        self.alive();
        let progress = serde_json::to_vec(progress)?;
        if progress.len() > PROGRESS_LEN_MAX {
            return Err(DataError::TooLarge(progress.len()));
        }
        self.link
            .with_beat(|beat| beat.progress = Some(progress.into()));
        Ok(())
    }

    /// Gives a sign of life.
    pub fn alive(&self) {
        self.link.with_beat(|beat| beat.given = true);
        self.link.wake.notify_one();
    }

    /// Waits until the handler must stop. Its future is dropped then; this is for what runs apart
    /// from it, in a thread for one, with a clone of the context.
    pub async fn cancelled(&self) {
        let mut cancelled = self.link.cancelled.subscribe();
        // The sender lives in the link that this context holds, so the wait ends only by a cancel.
        drop(cancelled.wait_for(|cancelled| *cancelled).await);
    }

    /// Whether the handler must stop.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        *self.link.cancelled.borrow()
    }
}
