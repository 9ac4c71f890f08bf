//! Workers that wait at other processes: what is asked for them, and when it is answered.
//!
//! Nothing is granted here. A question is answered as soon as a poll in its place would be, after the polls of
//! this member's own workers were served.

use std::collections::{BTreeMap, BTreeSet};

use rustc_hash::FxHashMap;

use super::{Fleet, Member};
use crate::{
    Error, Label, LeaseLost, Partition, PipelineNumber, ShardId, Timestamp, WorkerId,
    action::{Action, Answer, CallId},
    call::Held,
};

/// What one worker, or several that offer the same, waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sought {
    /// The pipeline it serves.
    pub pipeline: PipelineNumber,
    /// Who holds the leases in `held`.
    pub worker: WorkerId,
    /// Labels it has.
    pub labels: BTreeSet<Label>,
    /// Slots it has free; with 0 it only listens for lost leases.
    pub credit: usize,
    /// Partitions that the asker takes to be here: it is told if one is not.
    pub partitions: Vec<Partition>,
    /// Leases it holds, which are renewed, and of whose loss it is told.
    pub held: Vec<Held>,
}

/// What there is to say of one [`Sought`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// Tasks wait that it could take.
    Ready,
    /// These partitions are not here.
    Moved(Vec<Partition>),
    /// These leases are lost.
    Lost(Vec<(Held, LeaseLost)>),
}

/// News of the [`Sought`] at each index.
pub type AllNews = Vec<(usize, News)>;

/// A question that waits.
#[derive(Debug)]
struct Question {
    sought: Vec<Sought>,
    until: Timestamp,
    /// Of which of them leases were lost in this turn.
    lost: BTreeMap<usize, Vec<(Held, LeaseLost)>>,
}

/// All questions that wait, by what may answer them.
#[derive(Debug, Default)]
pub(super) struct Seekers {
    waiting: FxHashMap<CallId, Question>,
    /// Which ask for tasks of a pipeline.
    by_pipeline: BTreeMap<PipelineNumber, BTreeSet<CallId>>,
    /// Which named a lease as held, and where.
    listeners: FxHashMap<Held, (CallId, usize)>,
    deadlines: BTreeSet<(Timestamp, CallId)>,
    /// Pipelines of which a task may have become ready since they were looked at.
    stirred: BTreeSet<PipelineNumber>,
    /// Questions that are new, or have something to be told.
    fresh: BTreeSet<CallId>,
    /// A shard is here no longer since all were looked at.
    pub(super) has_left: bool,
    n_sought: usize,
}

impl Seekers {
    pub(super) fn wake_at(&self) -> Option<Timestamp> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Whether anybody asks for tasks of a pipeline.
    pub(super) fn has_any(&self, pipeline: PipelineNumber) -> bool {
        self.by_pipeline.contains_key(&pipeline)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_pipeline.is_empty()
    }

    /// Looks at a pipeline again, if anybody asks for it.
    pub(super) fn stir(&mut self, fleet: &Fleet) {
        if let Fleet::Pipeline(pipeline) = fleet
            && self.has_any(*pipeline)
        {
            self.stirred.insert(*pipeline);
        }
    }

    /// Whether a worker waits elsewhere that has these labels and so many free slots.
    pub(super) fn has_worker(
        &self,
        pipeline: PipelineNumber,
        labels: &BTreeSet<Label>,
        cost: u16,
    ) -> bool {
        let calls = self.by_pipeline.get(&pipeline).into_iter().flatten();
        let mut sought = calls
            .filter_map(|call| self.waiting.get(call))
            .flat_map(|question| &question.sought);
        sought.any(|sought| {
            sought.pipeline == pipeline
                && usize::from(cost) <= sought.credit
                && labels.is_subset(&sought.labels)
        })
    }

    /// The leases of a shard that were named as held, and who holds them, in no order.
    pub(super) fn held_in(&self, id: ShardId) -> impl Iterator<Item = (Held, WorkerId)> {
        let here = self.listeners.iter();
        here.filter(move |(held, _)| held.id.shard == id)
            .filter_map(|(held, (call, at))| {
                let sought = self.waiting.get(call)?.sought.get(*at)?;
                Some((*held, sought.worker.clone()))
            })
    }

    /// Notes that a lease was lost, for whoever named it.
    pub(super) fn note_lost(&mut self, held: Held, why: LeaseLost) {
        if let Some((call, at)) = self.listeners.get(&held)
            && let Some(question) = self.waiting.get_mut(call)
        {
            question.lost.entry(*at).or_default().push((held, why));
            self.fresh.insert(*call);
        }
    }

    fn add(&mut self, call: CallId, question: Question) {
        self.deadlines.insert((question.until, call));
        self.n_sought += question.sought.len();
        for (at, sought) in question.sought.iter().enumerate() {
            for held in &sought.held {
                self.listeners.insert(*held, (call, at));
            }
            if sought.credit > 0 {
                let calls = self.by_pipeline.entry(sought.pipeline).or_default();
                calls.insert(call);
            }
        }
        self.fresh.insert(call);
        self.waiting.insert(call, question);
    }

    /// Takes a question out, whoever answers it.
    pub(super) fn take(&mut self, call: CallId) {
        let Some(question) = self.waiting.remove(&call) else {
            return;
        };
        self.deadlines.remove(&(question.until, call));
        self.fresh.remove(&call);
        self.n_sought -= question.sought.len();
        for sought in &question.sought {
            for held in &sought.held {
                if self.listeners.get(held).is_some_and(|(by, _)| *by == call) {
                    self.listeners.remove(held);
                }
            }
            if let Some(calls) = self.by_pipeline.get_mut(&sought.pipeline) {
                calls.remove(&call);
                if calls.is_empty() {
                    self.by_pipeline.remove(&sought.pipeline);
                }
            }
        }
    }
}

impl Member {
    /// Takes a question; it is answered in this turn, or later.
    pub(super) fn seek(
        &mut self,
        call: CallId,
        sought: Vec<Sought>,
        wait: std::time::Duration,
        now: Timestamp,
        out: &mut Vec<Action>,
    ) {
        let refusal = if self.stopping {
            Some(Error::moved())
        } else if self.seekers.n_sought + sought.len() > self.config.calls_max {
            Some(Error::Overloaded {
                what: "calls_max".into(),
                retry_after: std::time::Duration::from_secs(1),
            })
        } else {
            None
        };
        if let Some(error) = refusal {
            out.push(Action::Answer(call, 0, Answer::News(Err(error))));
            return;
        }
        let held: Vec<_> = sought
            .iter()
            .flat_map(|sought| {
                sought
                    .held
                    .iter()
                    .map(|held| (*held, sought.worker.clone()))
            })
            .collect();
        let question = Question {
            sought,
            until: now + wait.min(self.config.poll_wait_max),
            lost: BTreeMap::new(),
        };
        self.seekers.add(call, question);
        for (held, worker) in held {
            self.with_shard(held.id.shard, now, |shard| {
                shard.declare(held, worker, now, out);
            });
        }
    }

    /// Answers the questions for which there are news, and those whose time is over.
    pub(super) fn answer_seekers(&mut self, now: Timestamp, proven: bool, out: &mut Vec<Action>) {
        if self.seekers.waiting.is_empty() {
            self.seekers.has_left = false;
            return;
        }
        if self.stopping {
            let mut calls: Vec<_> = self.seekers.waiting.keys().copied().collect();
            calls.sort_unstable();
            for call in calls {
                self.seekers.take(call);
                let moved = Answer::News(Err(Error::moved()));
                out.push(Action::Answer(call, 0, moved));
            }
            return;
        }
        // Who cannot prove that it is a member must not say what only an owner knows.
        if proven {
            let mut calls = std::mem::take(&mut self.seekers.fresh);
            for pipeline in std::mem::take(&mut self.seekers.stirred) {
                let asking = self.seekers.by_pipeline.get(&pipeline);
                calls.extend(asking.into_iter().flatten());
            }
            if std::mem::take(&mut self.seekers.has_left) {
                calls.extend(self.seekers.waiting.keys());
            }
            for call in calls {
                let news = self.news_for(call, now);
                if !news.is_empty() {
                    self.seekers.take(call);
                    out.push(Action::Answer(call, 0, Answer::News(Ok(news))));
                }
            }
        }
        while let Some(&(until, call)) = self.seekers.deadlines.first()
            && until <= now
        {
            self.seekers.take(call);
            out.push(Action::Answer(call, 0, Answer::News(Ok(Vec::new()))));
        }
    }

    fn news_for(&mut self, call: CallId, now: Timestamp) -> AllNews {
        let Some(question) = self.seekers.waiting.get_mut(&call) else {
            return Vec::new();
        };
        let mut lost = std::mem::take(&mut question.lost);
        let mut news = Vec::new();
        // It waits on, as it is, if there are none.
        let sought = std::mem::take(&mut question.sought);
        for (at, sought) in sought.iter().enumerate() {
            if let Some(lost) = lost.remove(&at) {
                news.push((at, News::Lost(lost)));
            }
            let is_away = |partition: &&Partition| {
                let pipeline = sought.pipeline;
                let partition = **partition;
                let id = ShardId {
                    pipeline,
                    partition,
                };
                !self.shards.contains_key(&id) && !self.ownership.is_coming(id)
            };
            let away: Vec<_> = sought.partitions.iter().filter(is_away).copied().collect();
            if !away.is_empty() {
                news.push((at, News::Moved(away)));
            }
            if sought.credit > 0 && self.could_serve(sought, now) {
                news.push((at, News::Ready));
            }
        }
        if let Some(question) = self.seekers.waiting.get_mut(&call) {
            question.sought = sought;
        }
        news
    }

    /// Whether a poll of such a worker would get something, about: what keeps a single task back is found
    /// only when it is to be granted.
    fn could_serve(&mut self, sought: &Sought, now: Timestamp) -> bool {
        let Some(pipeline) = self.pipelines.get(&sought.pipeline) else {
            return false;
        };
        let tenant = &pipeline.path.tenant;
        if self.tenants.room(&self.config, tenant, now) == 0 {
            return false;
        }
        let fleet = Fleet::Pipeline(sought.pipeline);
        let ready: Vec<_> = self.dispatcher.shares(&fleet).ready().collect();
        ready.into_iter().any(|id| {
            !self.ownership.is_releasing(id)
                && self
                    .shards
                    .get_mut(&id)
                    .is_some_and(|shard| shard.has_ready_for(&sought.labels, sought.credit, now))
        })
    }
}
