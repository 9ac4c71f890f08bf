//! Carries the member's actions to the ports and brings the results back as events: the only tokio in
//! this crate.
//!
//! One task owns the [`Member`](crate::member::Member) and never waits for a port. It takes what has
//! come in, lets the member decide once for all of it, and starts what the member asks for.

mod calls;
mod clock;
mod owner;
mod perform;
mod turn;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustc_hash::FxHashSet;
use tokio::sync::{mpsc, oneshot, watch};

pub(crate) use self::calls::Reply;
pub use self::clock::SystemClock;
use crate::{
    Config, Error, Slot, TaskId, Timestamp,
    action::Answer,
    explain::Tally,
    member::{Call, Event, Load},
    port::{Clock, TaskStore},
    scheduler::{Ports, roster::Roster},
};

/// Where an answer will arrive. Dropped, it gives back what a poll was granted meanwhile.
#[derive(Debug)]
pub(crate) struct Answers {
    reply: oneshot::Receiver<Result<Vec<Answer>, Error>>,
    events: mpsc::UnboundedSender<Event>,
}

impl Answers {
    /// Waits for the answer; `None` if the driver stopped before it had one.
    pub(crate) async fn wait(mut self) -> Option<Result<Vec<Answer>, Error>> {
        (&mut self.reply).await.ok()
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.reply.close();
        if let Ok(Ok(answers)) = self.reply.try_recv()
            && let Some(event) = calls::ungranted(answers.into_iter())
        {
            // A stopped driver has nothing to take back.
            self.events.send(event).ok();
        }
    }
}

/// What comes in from callers.
#[derive(Debug)]
enum Input {
    Call(Call, u32, Reply),
    /// Wake the sender when this task has ended, durably.
    Watch(TaskId, oneshot::Sender<()>),
    /// Wake the sender when this task is shown otherwise than before.
    WatchChange(TaskId, oneshot::Sender<()>),
}

/// How the driver stands, for probes.
#[derive(Debug, Default)]
struct Health {
    is_ready: AtomicBool,
    load: Mutex<Load>,
    tally: Mutex<Tally>,
    slots: Mutex<FxHashSet<Slot>>,
    refused: Mutex<Vec<String>>,
}

/// The way to a running driver; clones lead to the same one.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    inputs: mpsc::Sender<Input>,
    events: mpsc::UnboundedSender<Event>,
    health: Arc<Health>,
    stopped: watch::Receiver<bool>,
    store: Arc<dyn TaskStore>,
    clock: Arc<dyn Clock>,
    address: Arc<str>,
    started_at: Timestamp,
    /// Workers that are connected to this process.
    roster: Arc<Mutex<Roster>>,
}

impl Handle {
    /// Starts a driver on these ports.
    pub(crate) fn start(config: Arc<Config>, ports: Ports) -> Self {
        let (inputs, inputs_rx) = mpsc::channel(config.calls_max);
        // Bounded by what the member asked for: each action brings one event, and calls are bounded.
        let (events, events_rx) = mpsc::unbounded_channel();
        let (stopped_tx, stopped) = watch::channel(false);
        let health = Arc::new(Health::default());
        let (store, clock) = (Arc::clone(&ports.store), Arc::clone(&ports.clock));
        let address = config.address.as_str().into();
        let turn = turn::Turns::new(
            config,
            ports,
            (inputs_rx, events_rx),
            events.clone(),
            Arc::clone(&health),
        );
        tokio::spawn(turn.run(stopped_tx));
        Self {
            inputs,
            events,
            health,
            stopped,
            store,
            address,
            started_at: clock.now(),
            roster: Arc::default(),
            clock,
        }
    }

    /// Where others reach the member.
    pub(crate) fn address(&self) -> Arc<str> {
        Arc::clone(&self.address)
    }

    /// The workers of this process.
    pub(crate) fn roster(&self) -> &Arc<Mutex<Roster>> {
        &self.roster
    }

    /// Asks the member and waits for all `n_parts` of its answer.
    ///
    /// # Cancel safety
    /// A dropped poll gives back what it was granted; any other call may still be done.
    pub(crate) async fn call(&self, call: Call, n_parts: u32) -> Result<Vec<Answer>, Error> {
        self.begin(call, n_parts)?
            .wait()
            .await
            .ok_or_else(stopping)?
    }

    /// Asks the member; the answer can be waited for later.
    pub(crate) fn begin(&self, call: Call, n_parts: u32) -> Result<Answers, Error> {
        let (reply, answers) = oneshot::channel();
        self.inputs
            .try_send(Input::Call(call, n_parts, reply))
            .map_err(|err| match err {
                mpsc::error::TrySendError::Full(_) => overloaded(),
                mpsc::error::TrySendError::Closed(_) => stopping(),
            })?;
        Ok(Answers {
            reply: answers,
            events: self.events.clone(),
        })
    }

    /// Asks for an answer of one part.
    pub(crate) async fn ask(&self, call: Call) -> Result<Answer, Error> {
        let answers = self.call(call, 1).await?;
        answers.into_iter().next().ok_or_else(stopping)
    }

    /// Tells when a task has ended.
    pub(crate) fn watch(&self, id: TaskId) -> Result<oneshot::Receiver<()>, Error> {
        let (wake, woken) = oneshot::channel();
        self.inputs
            .try_send(Input::Watch(id, wake))
            .map_err(|_| overloaded())?;
        Ok(woken)
    }

    /// Tells when a task is shown otherwise than before.
    fn watch_change(&self, id: TaskId) -> Result<oneshot::Receiver<()>, Error> {
        let (wake, woken) = oneshot::channel();
        self.inputs
            .try_send(Input::WatchChange(id, wake))
            .map_err(|_| overloaded())?;
        Ok(woken)
    }

    /// Tells the member that something happened.
    pub(crate) fn tell(&self, event: Event) {
        // A stopped driver needs to know nothing.
        self.events.send(event).ok();
    }

    /// Whether the member works on all its shards.
    pub(crate) fn ready(&self) -> Result<(), Error> {
        if self.health.is_ready.load(Ordering::Relaxed) {
            return Ok(());
        }
        let refused = self
            .health
            .refused
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let what = match refused.first() {
            Some(why) => format!("a shard cannot be scheduled: {why}"),
            None => "not all shards are claimed yet".to_owned(),
        };
        let retry_after = Duration::from_secs(1);
        Err(Error::Unavailable { what, retry_after })
    }

    /// How much the member has to do.
    pub(crate) fn load(&self) -> Load {
        let load = self.health.load.lock();
        *load.unwrap_or_else(PoisonError::into_inner)
    }

    /// What the member's tasks wait for, as of a moment ago.
    pub(crate) fn tally(&self) -> Tally {
        let tally = self.health.tally.lock();
        *tally.unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the placement gave this slot to the member.
    pub(crate) fn owns(&self, slot: Slot) -> bool {
        let slots = self.health.slots.lock();
        slots
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&slot)
    }

    /// Stops in good order and waits until everything is saved.
    pub(crate) async fn stop(&self) {
        self.tell(Event::Stop);
        self.stopped().await;
    }

    /// Waits until the driver has stopped.
    pub(crate) fn stopped(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut stopped = self.stopped.clone();
        async move {
            // An error means that the driver is gone, which is stopped enough.
            stopped.wait_for(|stopped| *stopped).await.ok();
        }
    }
}

fn overloaded() -> Error {
    Error::Overloaded {
        what: "calls_max".into(),
        retry_after: Duration::from_secs(1),
    }
}

pub(crate) fn stopping() -> Error {
    Error::Unavailable {
        what: "the scheduler is shutting down".to_owned(),
        retry_after: Duration::from_secs(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Leased;

    #[test]
    fn what_a_dropped_poll_was_granted_in_its_last_moment_is_given_back() {
        let (reply, answers) = oneshot::channel();
        let (events, mut told) = mpsc::unbounded_channel();
        let answers = Answers {
            reply: answers,
            events,
        };
        let task = crate::call::LeasedTask {
            id: "aaaaaaaaaaaaaaaaaaaaaaa".parse().unwrap(),
            token: crate::LeaseToken::from_u64(1),
            attempt: 1,
            max_attempts: 1,
            data: bytes::Bytes::new(),
            options: None,
            traceparent: None,
            lease: Duration::ZERO,
            timeout: None,
            heartbeat_timeout: None,
            revision: crate::Revision(1),
        };
        let leased = Leased {
            tasks: vec![task.clone()],
            lost: Vec::new(),
        };
        reply.send(Ok(vec![Answer::Leased(Ok(leased))])).unwrap();
        drop(answers);
        assert!(matches!(told.try_recv(), Ok(Event::Ungranted(tasks)) if tasks == [task]));
    }
}
