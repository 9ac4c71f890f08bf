//! Redriving the dead letters of a pipeline: one, then ten, then a hundredth, and the rest only while none of them
//! fails again as it did before.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use tokio::task::JoinSet;

use super::Scheduler;
use crate::{
    Error, ErrorCode, Failure, Invalid, LeaseToken, ListTasks, PipelinePath, StateName, TaskId,
    TaskView, TenantName, Timestamp,
};

/// The first stages; the next one has one of [`PART`], and the last one all that is left.
const STAGES: [usize; 2] = [1, 10];
const PART: usize = 100;
/// The most dead letters of one call.
const LIMIT_MAX: usize = 100_000;
/// How many are listed, and in the last stage redriven, between two looks at those before.
const BATCH: usize = 1_000;
/// Calls at once: each waits for a flush, which many share.
const CALLS_MAX: usize = 64;
/// How often it is looked what became of a stage: soon at first, then rarer.
const LOOK_FIRST: Duration = Duration::from_millis(50);
const LOOK_LAST: Duration = Duration::from_secs(2);
/// How long one task is tried again while its shard has no owner.
const TRY_FOR: Duration = Duration::from_secs(30);
const TRY_AGAIN: Duration = Duration::from_millis(500);

/// Which dead letters to redrive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedriveMany {
    /// Only tasks whose last failure has this code.
    pub code: Option<ErrorCode>,
    /// At most so many, the oldest of each partition first: 1 to 100,000.
    pub limit: usize,
    /// How long each of the first stages may take until all its tasks have ended or failed.
    pub patience: Duration,
}

impl Default for RedriveMany {
    fn default() -> Self {
        Self {
            code: None,
            limit: LIMIT_MAX,
            patience: Duration::from_secs(300),
        }
    }
}

/// How far a redrive of many is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Redriving {
    /// Dead letters that it is about.
    pub n_found: usize,
    /// Of these, redriven so far.
    pub n_redriven: usize,
    /// Could not be redriven: malformed records, and tasks that someone else redrove or that are kept no longer.
    pub n_skipped: usize,
    /// Known to have completed since, or to have failed in another way than before.
    pub n_changed: usize,
    /// Why it went no further. Those that it did not come to are dead letters still.
    pub halted: Option<Halted>,
}

/// Why a redrive of many went no further.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Halted {
    /// A task failed again as it did before: what made it fail is not mended.
    SameFailure {
        /// Which.
        id: TaskId,
        /// How.
        failure: Failure,
    },
    /// The tasks of a stage did not end in time, nor fail.
    NoVerdict {
        /// How many of them.
        n: usize,
    },
}

/// A dead letter, as it was found.
#[derive(Debug, Clone, Copy)]
struct Letter {
    id: TaskId,
    /// Its last failure, and the lease under which that was.
    fingerprint: u64,
    token: LeaseToken,
}

/// What became of a task since.
#[derive(Debug)]
enum Verdict {
    Changed,
    Again(Failure),
    None,
}

impl Letter {
    fn of(view: &TaskView) -> Self {
        let last = view.errors.last();
        Self {
            id: view.id,
            fingerprint: last.map_or(0, |error| error.failure.fingerprint()),
            token: last.map_or(LeaseToken::NONE, |error| error.token),
        }
    }

    /// Leases grow, so a failure under a later one came after the redrive.
    fn judge(&self, view: &TaskView) -> Verdict {
        match view.errors.last() {
            Some(error) if error.token > self.token => {
                if error.failure.fingerprint() == self.fingerprint {
                    Verdict::Again(error.failure.clone())
                } else {
                    Verdict::Changed
                }
            }
            _ if view.state.is_terminal() && view.state != StateName::Discarded => Verdict::Changed,
            _ => Verdict::None,
        }
    }
}

impl Scheduler {
    /// Begins to redrive the dead letters of a pipeline; [`Redrive::step`] does it.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` for a limit that is none.
    pub async fn redrive_many(
        &self,
        path: &PipelinePath,
        query: RedriveMany,
    ) -> Result<Redrive, Error> {
        if !(1..=LIMIT_MAX).contains(&query.limit) {
            return Err(Invalid::new("limit", "must be 1 to 100000").into());
        }
        let letters = self.dead_letters(path, &query).await?;
        Ok(Redrive {
            scheduler: self.clone(),
            tenant: path.tenant.clone(),
            stages: stages(letters.len()).into(),
            so_far: Redriving {
                n_found: letters.len(),
                ..Redriving::default()
            },
            letters: letters.into(),
            n_left: 0,
            patience: query.patience,
            waits: None,
            watched: VecDeque::new(),
        })
    }

    /// The oldest dead letters of each partition, in the order in which they were accepted there.
    async fn dead_letters(
        &self,
        path: &PipelinePath,
        query: &RedriveMany,
    ) -> Result<Vec<Letter>, Error> {
        // Lists are newest first, so only the last ones that fit are kept.
        let mut found = VecDeque::new();
        let mut list = ListTasks {
            states: vec![StateName::Discarded],
            limit: BATCH,
            ..ListTasks::default()
        };
        loop {
            let page = self.list(path, list.clone()).await?;
            let is_wanted = |view: &&TaskView| {
                let last = view.errors.last().map(|error| &error.failure.code);
                query.code.is_none() || last == query.code.as_ref()
            };
            for view in page.tasks.iter().filter(is_wanted) {
                if found.len() == query.limit {
                    found.pop_front();
                }
                found.push_back(Letter::of(view));
            }
            list.page_token = page.next_page_token;
            if list.page_token.is_none() {
                return Ok(found.into_iter().rev().collect());
            }
        }
    }

    /// Redrives one task, and tries again while its shard moves; false if it cannot be redriven.
    async fn redrive_patiently(&self, tenant: &TenantName, id: TaskId) -> Result<bool, Error> {
        let clock = &self.shared.ports.clock;
        let until = clock.now() + TRY_FOR;
        loop {
            self.pipeline_of(tenant, id)?;
            match self.shared.route.redrive(id).await {
                Ok(()) => return Ok(true),
                Err(Error::WrongState(_) | Error::Gone(_) | Error::NotFound { .. }) => {
                    return Ok(false);
                }
                Err(
                    Error::Unavailable { .. }
                    | Error::Overloaded { .. }
                    | Error::UnknownOutcome { .. },
                ) if clock.now() < until => {
                    clock.sleep_until(clock.now() + TRY_AGAIN).await;
                }
                Err(err) => return Err(err),
            }
        }
    }

    /// Makes one call for each of these, some at once.
    async fn each<T, F>(
        &self,
        letters: &[Letter],
        call: impl Fn(Self, TaskId) -> F,
    ) -> Result<HashMap<TaskId, T>, Error>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let mut calls = JoinSet::new();
        let mut answers = HashMap::with_capacity(letters.len());
        let mut take = |joined: Option<Result<(TaskId, Result<T, Error>), _>>| match joined {
            Some(Ok((id, answer))) => answer.map(|answer| {
                answers.insert(id, answer);
            }),
            // A call that panicked has no answer.
            Some(Err(_)) | None => Ok(()),
        };
        for letter in letters {
            let (id, answer) = (letter.id, call(self.clone(), letter.id));
            calls.spawn(async move { (id, answer.await) });
            if calls.len() >= CALLS_MAX {
                take(calls.join_next().await)?;
            }
        }
        while !calls.is_empty() {
            take(calls.join_next().await)?;
        }
        Ok(answers)
    }
}

/// A redrive of many, on its way: the first dead letter, then 10, then a hundredth of all, each once those before have
/// completed or failed in another way, and then the rest. It halts when one fails again with the
/// [fingerprint](Failure::fingerprint) that it had, so that dead letters of a fault that is still there stay what they
/// are.
///
/// Dropping it ends it where it is: what was redriven runs, and another one goes on with the rest.
#[derive(Debug)]
pub struct Redrive {
    scheduler: Scheduler,
    tenant: TenantName,
    /// Those that are still to be redriven.
    letters: VecDeque<Letter>,
    stages: VecDeque<usize>,
    /// How many of `letters` belong to the stage that has begun.
    n_left: usize,
    patience: Duration,
    /// The stage is redriven: until when to wait for it, and how long to the next look.
    waits: Option<(Timestamp, Duration)>,
    /// Redriven, and not known to have changed.
    watched: VecDeque<Letter>,
    so_far: Redriving,
}

impl Redrive {
    /// How far it is.
    #[must_use]
    pub fn so_far(&self) -> &Redriving {
        &self.so_far
    }

    /// Goes one step, of some seconds at most, and tells how far it is; `None` once it is over or has halted.
    ///
    /// # Errors
    /// As the scheduler says. Another step tries again; what was redriven before the error counts as skipped then.
    ///
    /// # Cancel safety
    /// Tasks of a dropped step may have been redriven without being counted.
    pub async fn step(&mut self) -> Result<Option<&Redriving>, Error> {
        if self.so_far.halted.is_some() {
            return Ok(None);
        }
        if let Some((until, pause)) = self.waits {
            self.look().await?;
            let now = self.scheduler.shared.ports.clock.now();
            if self.watched.is_empty() {
                self.waits = None;
            } else if now >= until && self.so_far.halted.is_none() {
                let n = self.watched.len();
                self.so_far.halted = Some(Halted::NoVerdict { n });
            } else if self.so_far.halted.is_none() {
                self.waits = Some((until, LOOK_LAST.min(pause * 2)));
                let next = until.min(now + pause);
                self.scheduler.shared.ports.clock.sleep_until(next).await;
            }
            return Ok(Some(&self.so_far));
        }
        if self.n_left == 0 {
            match self.stages.pop_front() {
                Some(size) => self.n_left = size,
                None => return Ok(None),
            }
        }
        let is_last = self.stages.is_empty();
        let batch: Vec<_> = self.letters.drain(..self.n_left.min(BATCH)).collect();
        if let Err(err) = self.redrive(&batch).await {
            batch
                .into_iter()
                .rev()
                .for_each(|letter| self.letters.push_front(letter));
            return Err(err);
        }
        self.n_left -= batch.len();
        if is_last {
            // Nobody waits for these: there is only a look at them on the way.
            self.look().await?;
        } else if self.n_left == 0 {
            let until = self.scheduler.shared.ports.clock.now() + self.patience;
            self.waits = Some((until, LOOK_FIRST));
        }
        Ok(Some(&self.so_far))
    }

    async fn redrive(&mut self, batch: &[Letter]) -> Result<(), Error> {
        let redriven = self
            .scheduler
            .each(batch, |scheduler, id| {
                let tenant = self.tenant.clone();
                async move { scheduler.redrive_patiently(&tenant, id).await }
            })
            .await?;
        let is_done = |letter: &&Letter| redriven.get(&letter.id) == Some(&true);
        let n_watched = self.watched.len();
        self.watched.extend(batch.iter().filter(is_done));
        let n_done = self.watched.len() - n_watched;
        self.so_far.n_redriven += n_done;
        self.so_far.n_skipped += batch.len() - n_done;
        Ok(())
    }

    /// Looks at the first of those that were redriven, and drops those of which it is known what became of them.
    async fn look(&mut self) -> Result<(), Error> {
        let n = self.watched.len().min(BATCH);
        let looked_at: Vec<_> = self.watched.range(..n).copied().collect();
        let views = self
            .scheduler
            .each(&looked_at, |scheduler, id| {
                let tenant = self.tenant.clone();
                async move {
                    match scheduler.get(&tenant, id).await {
                        Ok(view) => Ok(Some(view)),
                        // It has ended well, and its result is not kept.
                        Err(Error::Gone(_)) => Ok(None),
                        Err(err) => Err(err),
                    }
                }
            })
            .await;
        let views = match views {
            Ok(views) => views,
            Err(Error::Unavailable { .. } | Error::Overloaded { .. }) => return Ok(()),
            Err(err) => return Err(err),
        };
        self.watched.drain(..n);
        for letter in looked_at {
            let verdict = match views.get(&letter.id) {
                Some(Some(view)) => letter.judge(view),
                Some(None) => Verdict::Changed,
                None => Verdict::None,
            };
            match verdict {
                Verdict::Changed => self.so_far.n_changed += 1,
                Verdict::Again(failure) => {
                    let id = letter.id;
                    self.so_far.halted = Some(Halted::SameFailure { id, failure });
                }
                Verdict::None => self.watched.push_back(letter),
            }
        }
        Ok(())
    }
}

/// How many tasks each stage has.
fn stages(n: usize) -> Vec<usize> {
    let mut rest = n;
    let mut stages = Vec::new();
    for size in STAGES.into_iter().chain([n.div_ceil(PART), n]) {
        let size = size.min(rest);
        if size > 0 {
            stages.push(size);
        }
        rest -= size;
    }
    stages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_grow_and_are_all_of_it() {
        assert_eq!(stages(100_000), [1, 10, 1_000, 98_989]);
        assert_eq!(stages(12), [1, 10, 1]);
        assert_eq!(stages(7), [1, 6]);
        assert!(stages(0).is_empty());
    }
}
