//! Workers that are connected here and are served by all members.
//!
//! A poll's credit is at one place at a time: while it waits here, other members are only asked whether they have
//! something for it, and nobody but this member grants under it.

mod book;
mod line;
mod peer;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustc_hash::FxHashMap;
use tokio::{
    sync::{Notify, mpsc},
    task::{AbortHandle, JoinSet},
};

use self::{
    book::{Act, Book, Wake},
    line::Address,
};
use super::route::There;
use crate::{
    Config, Error, Pipeline, ShardId, Timestamp,
    call::{Leased, Poll},
    driver::Handle,
    member::{AllNews, Fleet},
    port::Clock,
};

/// How long a question waits for its answer.
const QUESTION_WAIT: Duration = Duration::from_secs(20);
/// How long a poll looks at another member that said it has something: meanwhile it is nowhere else.
const TRY_MAX: Duration = Duration::from_secs(1);
/// Wakes that a poll has not taken yet.
const WAKES_MAX: usize = 4;

/// Leases tasks of all members to the workers of this process.
#[derive(Debug)]
pub(super) struct Gather {
    shared: Arc<Shared>,
    asking: AbortHandle,
}

#[derive(Debug)]
struct Shared {
    /// The member in this process, if there is one.
    here: Option<Handle>,
    there: Arc<There>,
    clock: Arc<dyn Clock>,
    wait_max: Duration,
    waiters_max: usize,
    book: Mutex<Book>,
    /// The book has something to do.
    stirred: Notify,
}

impl Shared {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the book, and wakes who asks for it if that has something to do now.
    fn note<T>(&self, change: impl FnOnce(&mut Book, Timestamp) -> T) -> T {
        let now = self.clock.now();
        let (done, is_stirred) = {
            let mut book = self.book();
            let done = change(&mut book, now);
            (done, book.take_stirred())
        };
        if is_stirred {
            self.stirred.notify_one();
        }
        done
    }
}

impl Drop for Gather {
    fn drop(&mut self) {
        self.asking.abort();
    }
}

/// A poll that waits for what other members have. Dropped, it waits no longer.
#[derive(Debug)]
struct Waiting<'a> {
    shared: &'a Shared,
    id: u64,
    wakes: mpsc::Receiver<Wake>,
}

impl Waiting<'_> {
    async fn next(&mut self) -> Wake {
        match self.wakes.recv().await {
            Some(wake) => wake,
            // The book keeps the other end for as long as this waits.
            None => std::future::pending().await,
        }
    }

    /// It has looked where it was told to.
    fn tried(&self, got: bool) {
        let id = self.id;
        self.shared.note(|book, now| book.tried(id, Some(got), now));
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let id = self.id;
        self.shared.note(|book, now| book.leave(id, now));
    }
}

impl Gather {
    pub(super) fn new(
        config: &Config,
        here: Option<Handle>,
        there: Arc<There>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let shared = Arc::new(Shared {
            here,
            there,
            clock,
            wait_max: config.poll_wait_max,
            waiters_max: config.calls_max,
            book: Mutex::new(Book::new(config.seed)),
            stirred: Notify::new(),
        });
        let asking = tokio::spawn(ask(Arc::clone(&shared))).abort_handle();
        Self { shared, asking }
    }

    /// Leases tasks to a worker, whichever member owns them.
    ///
    /// # Cancel safety
    /// Tasks that were granted to a dropped call are taken back at once and cost no attempt.
    pub(super) async fn lease(&self, pipeline: &Pipeline, poll: Poll) -> Result<Leased, Error> {
        let until = self.shared.clock.now() + poll.wait.min(self.shared.wait_max);
        if poll.credit > 0
            && let Some(leased) = self.lease_at_once(pipeline, &poll).await?
        {
            return Ok(leased);
        }
        let mut waiting = self.join(pipeline, &poll)?;
        loop {
            let wake = tokio::select! {
                biased;
                leased = self.lease_here(pipeline, poll.clone(), until) => return leased,
                wake = waiting.next() => wake,
            };
            // From here on the poll waits nowhere, so that it can look at another member with all its credit.
            match wake {
                Wake::Lost(lost) => {
                    let tasks = Vec::new();
                    return Ok(Leased { tasks, lost });
                }
                Wake::Ready(address) => {
                    let leased = self.lease_there(&address, pipeline, &poll).await;
                    waiting.tried(leased.is_some());
                    if let Some(leased) = leased {
                        return Ok(leased);
                    }
                }
            }
        }
    }

    /// Takes what is ready now, here or at a member that is drawn, if it may have something.
    async fn lease_at_once(
        &self,
        pipeline: &Pipeline,
        poll: &Poll,
    ) -> Result<Option<Leased>, Error> {
        let shared = &self.shared;
        let first = shared.note(|book, now| book.begin(pipeline, poll, now));
        if let Some(address) = first {
            let leased = self.lease_there(&address, pipeline, poll).await;
            if leased.is_some() {
                return Ok(leased);
            }
            let number = pipeline.number;
            shared.note(|book, now| book.found_nothing(number, poll, &address, now));
        }
        let Some(here) = &shared.here else {
            return Ok(None);
        };
        let fleet = Fleet::Pipeline(pipeline.number);
        let leased = here.poll(fleet, at_once(poll)).await?;
        Ok((!leased.tasks.is_empty()).then_some(leased))
    }

    fn join(&self, pipeline: &Pipeline, poll: &Poll) -> Result<Waiting<'_>, Error> {
        let (wake, wakes) = mpsc::channel(WAKES_MAX);
        let waiters_max = self.shared.waiters_max;
        let joined = self.shared.note(|book, now| {
            let has_room = book.n_waiters() < waiters_max;
            has_room.then(|| book.join(pipeline, poll, wake, now))
        });
        let id = joined.ok_or_else(|| Error::Overloaded {
            what: "calls_max".into(),
            retry_after: Duration::from_secs(1),
        })?;
        Ok(Waiting {
            shared: &self.shared,
            id,
            wakes,
        })
    }

    /// Waits for tasks of this member, if there is one.
    async fn lease_here(
        &self,
        pipeline: &Pipeline,
        mut poll: Poll,
        until: Timestamp,
    ) -> Result<Leased, Error> {
        match &self.shared.here {
            Some(here) => {
                poll.wait = until.since(self.shared.clock.now());
                here.poll(Fleet::Pipeline(pipeline.number), poll).await
            }
            None => {
                self.shared.clock.sleep_until(until).await;
                Ok(Leased::default())
            }
        }
    }

    /// Takes what another member has now; `None` if that is nothing.
    async fn lease_there(
        &self,
        address: &Address,
        pipeline: &Pipeline,
        poll: &Poll,
    ) -> Option<Leased> {
        let shared = &self.shared;
        let lease = async {
            let owner = shared.there.at(address)?;
            owner.lease(pipeline.number, at_once(poll)).await
        };
        let too_late = shared.clock.now() + TRY_MAX;
        let leased = tokio::select! {
            leased = lease => leased,
            () = shared.clock.sleep_until(too_late) => Err(Error::moved()),
        };
        match leased {
            Ok(leased) => (!leased.tasks.is_empty()).then_some(leased),
            Err(error) => {
                tracing::debug!(%error, %address, "cannot lease from the owner");
                shared.note(|book, now| book.failed(address, &error, now));
                None
            }
        }
    }
}

/// The same poll, for what is ready now.
fn at_once(poll: &Poll) -> Poll {
    Poll {
        wait: Duration::ZERO,
        held: Vec::new(),
        labels: poll.labels.clone(),
        worker: poll.worker.clone(),
        ..*poll
    }
}

/// What came of an act.
enum Done {
    Answered(Address, u64, Result<AllNews, Error>),
    Looked(Vec<ShardId>, Option<BTreeMap<ShardId, Address>>),
}

/// Does what the book wants, until it is aborted.
async fn ask(shared: Arc<Shared>) {
    let mut running: JoinSet<Done> = JoinSet::new();
    let mut calls: FxHashMap<u64, AbortHandle> = FxHashMap::default();
    loop {
        let now = shared.clock.now();
        let is_here = |shard: ShardId| {
            let here = shared.here.as_ref();
            here.is_some_and(|here| here.owns(shard.slot()))
        };
        let (acts, wake_at) = {
            let mut book = shared.book();
            let acts = book.step(now, is_here);
            book.take_stirred();
            (acts, book.wake_at())
        };
        for act in acts {
            match act {
                Act::Ask(address, call, sought) => {
                    let owner = shared.there.at(&address);
                    let asked = running.spawn(async move {
                        let answer = match owner {
                            Ok(owner) => owner.await_ready(sought, QUESTION_WAIT).await,
                            Err(error) => Err(error),
                        };
                        Done::Answered(address, call, answer)
                    });
                    calls.insert(call, asked);
                }
                Act::Drop(call) => {
                    if let Some(asked) = calls.remove(&call) {
                        asked.abort();
                    }
                }
                Act::Look(shards) => {
                    let there = Arc::clone(&shared.there);
                    running.spawn(async move {
                        let owners = there.owners(&shards).await.ok();
                        Done::Looked(shards, owners)
                    });
                }
                Act::Forget(shards, address) => shared.there.forget(&shards, &address),
            }
        }
        tokio::select! {
            Some(done) = running.join_next() => match done {
                Ok(Done::Answered(address, call, answer)) => {
                    calls.remove(&call);
                    let now = shared.clock.now();
                    shared.book().answered(&address, call, answer, now);
                }
                Ok(Done::Looked(shards, owners)) => {
                    let now = shared.clock.now();
                    shared.book().looked(&shards, owners.as_ref(), now);
                }
                // It was given up.
                Err(_) => {}
            },
            () = shared.stirred.notified() => {}
            () = shared.clock.sleep_until(wake_at.unwrap_or(Timestamp::NEVER)), if wake_at.is_some() => {}
        }
    }
}
