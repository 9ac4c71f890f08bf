//! Clients: they submit, cancel and read, and try again where that is safe.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use scheduler_core::{
    CancelFilter, CancelId, CancelRequest, IdempotencyKey, Partition, ShardId, StateName, TaskId,
    TaskOptions, Timestamp,
    action::{Answer, Seen},
    port::{
        log::{NewRecord, NewTask, RecordBody},
        store::{Found, Lookup},
    },
};

use crate::{
    fact::{By, Fact},
    net::{Body, End, Letter, Request},
    port::{Ask, Caller, Told},
    task,
    world::{What, World},
};

/// How often clients do something.
pub(crate) const TICK: Duration = Duration::from_millis(250);
/// How long they wait for an answer.
const PATIENCE: Duration = Duration::from_secs(6);
/// How often they ask before they give up.
const N_TRIES: u32 = 12;
/// So many keys are used again and again.
const N_KEYS: u32 = 8;

/// Something that a client wants.
#[derive(Debug, Clone)]
enum Wish {
    Plain(NewRecord),
    Keyed {
        shard: ShardId,
        key: IdempotencyKey,
        task: NewTask,
    },
    Cancel(TaskId),
    CancelMany(ShardId, CancelRequest),
    Read(TaskId),
    Count(ShardId),
}

impl Wish {
    fn shard(&self) -> ShardId {
        match self {
            Self::Plain(record) => record.shard,
            Self::Keyed { shard, .. } | Self::Count(shard) | Self::CancelMany(shard, _) => *shard,
            Self::Cancel(task) | Self::Read(task) => task.shard,
        }
    }
}

/// A wish that is being worked on.
#[derive(Debug, Clone)]
struct Op {
    wish: Wish,
    began_at: Timestamp,
    n_tries: u32,
    /// What a read was shown while the store may know more.
    saving: Option<StateName>,
}

/// All clients.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    ops: BTreeMap<u64, Op>,
    /// Which op a request or a call to a port is for.
    asked: BTreeMap<u64, u64>,
    /// Where the owner of each shard was found last.
    owners: BTreeMap<ShardId, usize>,
    accepted: Vec<TaskId>,
    n_ops: u64,
    n_submitted: u64,
    n_stuck: usize,
}

impl Clients {
    /// Whether nobody waits for anything.
    pub(crate) fn are_idle(&self) -> bool {
        self.ops.is_empty()
    }
}

impl World {
    /// Clients do what comes to their minds.
    pub(crate) fn clients_tick(&mut self) {
        let n_ticks = (self.plan.storm.as_millis() / TICK.as_millis()).max(1);
        let n_ticks = u64::try_from(n_ticks).unwrap_or(1);
        let mut n = self.plan.n_tasks / n_ticks;
        n += u64::from(self.rng.u64(0..n_ticks) < self.plan.n_tasks % n_ticks);
        // Now and then many come at once.
        if self.rng.u32(0..40) == 0 {
            n += self.plan.n_tasks / 20;
        }
        for _ in 0..n {
            if self.clients.n_submitted < self.plan.n_tasks {
                self.clients.n_submitted += 1;
                self.submit();
            }
        }
        if let Some(id) = self.some_accepted().filter(|_| self.rng.u32(0..20) == 0) {
            self.wish(Wish::Cancel(id));
        }
        if self.rng.u32(0..120) == 0 {
            self.cancel_many();
        }
        if self.rng.u32(0..16) == 0 {
            let shard = self.plan.shards[self.rng.usize(0..self.plan.shards.len())];
            self.wish(Wish::Count(shard));
        }
        if let Some(id) = self.some_accepted().filter(|_| self.rng.u32(0..2) == 0) {
            self.wish(Wish::Read(id));
        }
    }

    /// All tasks so far with one of the ordering keys, in one partition.
    fn cancel_many(&mut self) {
        let shard = self.plan.shards[self.rng.usize(0..self.plan.shards.len())];
        let key = task::ordering_key(self.rng.u32(0..4));
        let name = format!("bulk-{}", self.clients.n_ops);
        let id = CancelId::try_from(name.as_str());
        let request = CancelRequest {
            id: id.unwrap_or_else(|err| unreachable!("{name} is an id: {err}")),
            filter: CancelFilter {
                key: Some(key),
                ..CancelFilter::default()
            },
            below: self.log.end(shard),
        };
        self.wish(Wish::CancelMany(shard, request));
    }

    fn some_accepted(&mut self) -> Option<TaskId> {
        let n = self.clients.accepted.len();
        (n > 0).then(|| self.clients.accepted[self.rng.usize(0..n)])
    }

    fn submit(&mut self) {
        let shard = self.plan.shards[self.rng.usize(0..self.plan.shards.len())];
        match self.rng.u32(0..100) {
            0..12 => self.submit_keyed(shard),
            12..13 => {
                let reason = "it is no task".to_owned();
                let head = Bytes::from_static(b"?");
                self.append(shard, RecordBody::Malformed { reason, head });
            }
            _ => {
                let n = self.clients.n_submitted;
                // They stay in memory, so many of them would leave no room for others.
                let has_room = self.clients.n_stuck < self.plan.config.window_tasks_max / 4;
                let may_stick = has_room && !self.plan.is_limited;
                let (task, is_stuck) =
                    task::some(&mut self.rng, n, self.now, &self.plan, may_stick);
                self.clients.n_stuck += usize::from(is_stuck);
                self.wish(Wish::Plain(NewRecord { shard, task }));
            }
        }
    }

    /// A submit with one of a few keys or a new one, through the owner or by a plain producer.
    fn submit_keyed(&mut self, shard: ShardId) {
        let n = match self.rng.u32(0..3) {
            0 => N_KEYS + u32::try_from(self.clients.n_submitted).unwrap_or(0),
            _ => self.rng.u32(0..N_KEYS),
        };
        let name = format!("k{n}");
        let key = IdempotencyKey::try_from(name.as_str());
        let key = key.unwrap_or_else(|err| unreachable!("{name} is a key: {err}"));
        let other = self.rng.u32(0..12) == 0;
        let payload = if other { "other" } else { "same" };
        let task = task::keyed(&key, &format!("keyed-{name}-{payload}"));
        let pipelines = self.plan.pipelines.iter();
        let mut of_shard = pipelines.filter(|pipeline| pipeline.number == shard.pipeline);
        let n_partitions = of_shard.next().map_or(1, |found| found.spec.n_partitions);
        let shard = ShardId {
            partition: Partition::of_key(key.as_str().as_bytes(), n_partitions),
            ..shard
        };
        if self.rng.u32(0..8) == 0 {
            self.append(shard, RecordBody::Task(task));
        } else {
            self.wish(Wish::Keyed { shard, key, task });
        }
    }

    /// Submits a plain task that shall run at once.
    pub(crate) fn submit_probe(&mut self, shard: ShardId, n: usize) {
        let task = task::new(&format!("probe-{n}"), TaskOptions::default());
        self.append(shard, RecordBody::Task(task));
    }

    /// Submits tasks that all take the same time, so many to each tenant.
    pub(crate) fn submit_even(&mut self, n_each: usize) {
        for pipeline in self.plan.pipelines.clone() {
            for n in 0..n_each {
                let n_partitions = usize::from(pipeline.spec.n_partitions);
                let partition = u16::try_from(n % n_partitions).unwrap_or_default();
                let shard = ShardId {
                    pipeline: pipeline.number,
                    partition: Partition(partition),
                };
                let task = task::new(&format!("even-{n}"), TaskOptions::default());
                self.append(shard, RecordBody::Task(task));
            }
        }
    }

    fn wish(&mut self, wish: Wish) {
        self.clients.n_ops += 1;
        let op = Op {
            wish,
            began_at: self.now,
            n_tries: 0,
            saving: None,
        };
        let id = self.clients.n_ops;
        self.clients.ops.insert(id, op);
        self.try_op(id);
    }

    /// Asks for what is wished, once more.
    pub(crate) fn try_op(&mut self, id: u64) {
        let Some(op) = self.clients.ops.get_mut(&id) else {
            return;
        };
        op.n_tries += 1;
        let n_tries = op.n_tries;
        if n_tries > N_TRIES {
            self.clients.ops.remove(&id);
            return;
        }
        let (shard, request) = match op.wish.clone() {
            Wish::Plain(record) => return self.ask_for(id, Ask::Append(vec![record])),
            Wish::Keyed { shard, key, task } => (shard, Request::Submit(shard, key, task)),
            Wish::Cancel(task) => (task.shard, Request::Cancel(task)),
            Wish::CancelMany(shard, request) => (shard, Request::CancelMany(shard, request)),
            Wish::Count(shard) => (shard, Request::Count(vec![shard])),
            Wish::Read(task) => {
                op.began_at = self.now;
                op.saving = None;
                (task.shard, Request::See(vec![task]))
            }
        };
        self.queue
            .push(self.now + PATIENCE, What::OpOver(id, n_tries));
        match self.clients.owners.get(&shard).copied() {
            Some(to) => {
                let letter = self.request(End::Clients, End::Member(to), request);
                self.clients.asked.insert(letter, id);
            }
            None => self.ask_for(id, Ask::Owner(shard)),
        }
    }

    /// The store says where the owner of a shard is.
    fn told_owner(&mut self, id: u64, address: Option<Arc<str>>) {
        let Some(op) = self.clients.ops.get_mut(&id) else {
            return;
        };
        let shard = op.wish.shard();
        let member = address.and_then(|address| address.strip_prefix('m')?.parse().ok());
        match member {
            Some(member) => {
                // This was only the first half of the try.
                op.n_tries -= 1;
                self.clients.owners.insert(shard, member);
                self.try_op(id);
            }
            None => self.try_later(id),
        }
    }

    fn ask_for(&mut self, id: u64, ask: Ask) {
        let job = self.ask(Caller::Clients, ask);
        self.clients.asked.insert(job, id);
    }

    /// A try had its time.
    pub(crate) fn op_over(&mut self, id: u64, n_tries: u32) {
        let op = self.clients.ops.get(&id);
        if op.is_some_and(|op| op.n_tries == n_tries) {
            self.try_later(id);
        }
    }

    fn try_later(&mut self, id: u64) {
        let Some(op) = self.clients.ops.get_mut(&id) else {
            return;
        };
        // Whatever comes of the try before is not waited for.
        op.n_tries += 1;
        let shard = op.wish.shard();
        self.clients.owners.remove(&shard);
        self.clients.asked.retain(|_, op| *op != id);
        let wait = Duration::from_millis(self.rng.u64(100..2_000));
        self.queue.push(self.now + wait, What::TryOp(id));
    }

    /// A member's answer comes.
    pub(crate) fn client_answered(&mut self, letter: Letter) {
        let (End::Member(member), Body::Answer(answer)) = (letter.from, letter.body) else {
            return;
        };
        let Some(id) = self.clients.asked.remove(&letter.id) else {
            return;
        };
        let Some(op) = self.clients.ops.get(&id).cloned() else {
            return;
        };
        let answer = answer.ok().and_then(|mut answers| answers.pop());
        match (op.wish, answer) {
            (Wish::Keyed { shard, key, task }, Some(Answer::Submitted(Ok((task_id, _))))) => {
                self.clients.owners.insert(shard, member);
                self.clients.accepted.push(task_id);
                let key: Arc<str> = key.as_str().into();
                let payload: Arc<str> = task::name_of(&task.data).into();
                self.note(Fact::AcceptedKeyed(shard, key, payload, task_id));
                self.clients.ops.remove(&id);
            }
            (Wish::Keyed { .. }, Some(Answer::Submitted(Err(err))))
                if err.retry_after().is_none() =>
            {
                // The key is used, or nobody knows: then it is tried again.
                match err {
                    scheduler_core::Error::UnknownOutcome { .. } => self.try_later(id),
                    _ => drop(self.clients.ops.remove(&id)),
                }
            }
            (Wish::Cancel(task), Some(Answer::Cancelled(answer))) => match answer {
                Err(err) if err.retry_after().is_some() => self.try_later(id),
                _ => {
                    self.clients.owners.insert(task.shard, member);
                    self.clients.ops.remove(&id);
                }
            },
            (Wish::CancelMany(shard, _), Some(Answer::CancelledMany(Ok(_)))) => {
                self.clients.owners.insert(shard, member);
                self.clients.ops.remove(&id);
            }
            (Wish::Count(shard), Some(Answer::Counted(counts))) => {
                self.clients.ops.remove(&id);
                let next = counts.next_offsets.first();
                let next = next.map(|(_, next)| *next);
                self.note(Fact::Counted(shard, counts.n_window, next));
            }
            (Wish::Read(task), Some(Answer::Seen(seen))) => {
                self.clients.owners.insert(task.shard, member);
                self.saw(id, task, op.began_at, seen);
            }
            _ => self.try_later(id),
        }
    }

    /// A look goes on where the owner says.
    fn saw(&mut self, id: u64, task: TaskId, began_at: Timestamp, seen: Seen) {
        match seen {
            Seen::Here {
                task: row,
                waits: Some(waits),
                ..
            } if waits.is_saving() => {
                if let Some(op) = self.clients.ops.get_mut(&id) {
                    op.saving = Some(row.state.name());
                }
                let lookup = Lookup::Task(task.shard, task.offset);
                self.ask_for(id, Ask::Get(vec![lookup]));
            }
            Seen::Here { task: row, .. } => {
                self.clients.ops.remove(&id);
                let state = Some(row.state.name());
                self.note(Fact::Shown(task, began_at, state, By::Owner));
            }
            Seen::Backlog(_) => self.ask_for(id, Ask::ReadAt(vec![task])),
            Seen::Left => {
                let lookup = Lookup::Task(task.shard, task.offset);
                self.ask_for(id, Ask::Get(vec![lookup]));
            }
            Seen::Nowhere => {
                self.clients.owners.remove(&task.shard);
                // What has ended is in the store; what has not may be anywhere.
                if self.rng.bool() {
                    self.try_later(id);
                } else {
                    let lookup = Lookup::Task(task.shard, task.offset);
                    self.ask_for_ended(id, lookup);
                }
            }
        }
    }

    fn ask_for_ended(&mut self, id: u64, lookup: Lookup) {
        if let Some(op) = self.clients.ops.get_mut(&id) {
            // Marks that a row which is missing says nothing.
            op.n_tries = op.n_tries.max(N_TRIES);
        }
        self.ask_for(id, Ask::Get(vec![lookup]));
    }

    /// A port's answer comes.
    pub(crate) fn clients_told(&mut self, job: u64, told: Told) {
        let Some(id) = self.clients.asked.remove(&job) else {
            return;
        };
        if let Told::Owner(address) = told {
            return self.told_owner(id, address);
        }
        let asks_member = |op: &Op| {
            let is_alone = matches!(op.wish, Wish::Plain(_) | Wish::Read(_));
            !is_alone || op.saving.is_some()
        };
        if matches!(told, Told::Failed(_)) && self.clients.ops.get(&id).is_some_and(asks_member) {
            return self.try_later(id);
        }
        let Some(op) = self.clients.ops.remove(&id) else {
            return;
        };
        match (op.wish, told) {
            (Wish::Read(task), Told::Found(mut found)) if op.saving.is_some() => {
                let stored = match found.pop().flatten() {
                    Some(Found::Task(row)) => Some(row.state.name()),
                    _ => None,
                };
                let stored = stored.filter(|state| state.is_terminal());
                let state = stored.or(op.saving);
                self.note(Fact::Shown(task, op.began_at, state, By::Owner));
            }
            (Wish::Plain(record), Told::Appended(mut answers)) => {
                if let Some(Ok(appended)) = answers.pop() {
                    let (shard, offset) = (record.shard, appended.offset);
                    let task = TaskId { shard, offset };
                    self.clients.accepted.push(task);
                    self.note(Fact::Accepted(task));
                }
            }
            (Wish::Read(task), Told::Found(mut found)) => match found.pop().flatten() {
                Some(Found::Task(row)) => {
                    let state = Some(row.state.name());
                    let by = if op.n_tries < N_TRIES {
                        By::Owner
                    } else {
                        By::Store
                    };
                    self.note(Fact::Shown(task, op.began_at, state, by));
                }
                _ if op.n_tries < N_TRIES => {
                    self.note(Fact::Shown(task, op.began_at, None, By::Owner));
                }
                _ => {}
            },
            (Wish::Read(task), Told::Records(records)) if records.iter().any(Option::is_some) => {
                let state = Some(StateName::Available);
                self.note(Fact::Shown(task, op.began_at, state, By::Owner));
            }
            _ => {}
        }
    }
}
