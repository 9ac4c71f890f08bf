//! Tasks that can run: which of them goes next, for a worker with these labels and so many free slots.
//!
//! Tasks wait in *lines*: one for each set of needs (labels and cost) and each group, ordered by rank. A
//! line whose group is at a limit is taken off its board until that opens, so finding the next task
//! looks at one line for each set of needs that the worker meets, however many groups wait.

mod tally;

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap},
};

use rustc_hash::FxHashMap;

use super::{
    limit::{Closed, Gauge},
    window::{SlotRef, Window},
};
use crate::{
    Offset, Timestamp,
    pipeline::limits::Limit,
    task::{GroupName, Label},
};

/// What a task asks of a worker.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Needs {
    pub(super) labels: BTreeSet<Label>,
    pub(super) cost: u16,
}

/// What a worker offers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Offer<'a> {
    pub(super) labels: &'a BTreeSet<Label>,
    pub(super) n_slots: usize,
}

impl Offer<'_> {
    fn meets(&self, needs: &Needs) -> bool {
        usize::from(needs.cost) <= self.n_slots && needs.labels.is_subset(self.labels)
    }
}

/// The order of tasks that wait: lower goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    /// Since when it waits, less the head start of its priority, in milliseconds.
    pub(super) at: u64,
    pub(super) offset: Offset,
}

type LineId = u32;
type ClassId = u32;

/// Tasks with the same needs and of the same group.
#[derive(Debug)]
struct Line {
    class: ClassId,
    group: Option<GroupName>,
    /// Tasks that left for another reason stay in it until they come up.
    tasks: BinaryHeap<Reverse<(Rank, SlotRef)>>,
    /// As it stands on its class's board.
    listed: Option<Rank>,
    counted: tally::Counted,
}

/// Lines of the same needs.
#[derive(Debug)]
struct Class {
    needs: Needs,
    /// Open lines by their first task.
    board: BTreeSet<(Rank, LineId)>,
    lines: FxHashMap<Option<GroupName>, LineId>,
    /// How many wait in open lines.
    n_open: usize,
}

#[derive(Debug, Default)]
struct Group {
    gauge: Gauge,
    lines: Vec<LineId>,
    closed: Option<Closed>,
    wake_at: Option<Timestamp>,
}

/// All tasks of a shard that can run.
#[derive(Debug)]
pub(super) struct Ready {
    lines: Vec<Line>,
    free_lines: Vec<LineId>,
    classes: Vec<Class>,
    free_classes: Vec<ClassId>,
    class_of: FxHashMap<Needs, ClassId>,
    groups: FxHashMap<GroupName, Group>,
    /// When the rates of groups let another task start.
    refills: BTreeSet<(Timestamp, GroupName)>,
    n_tickets: usize,
    shut: tally::Shut,
    /// The highest rank of all tasks that came.
    last_rank: u64,
}

/// The line of tasks that ask for nothing special: it is always there.
const PLAIN: LineId = 0;

impl Ready {
    pub(super) fn new() -> Self {
        let needs = Needs {
            labels: BTreeSet::new(),
            cost: 1,
        };
        let mut plain = Class::new(needs.clone());
        plain.lines.insert(None, PLAIN);
        Self {
            lines: vec![Line::new(0, None)],
            free_lines: Vec::new(),
            class_of: FxHashMap::from_iter([(needs, 0)]),
            classes: vec![plain],
            free_classes: Vec::new(),
            groups: FxHashMap::default(),
            refills: BTreeSet::new(),
            n_tickets: 0,
            shut: tally::Shut::default(),
            last_rank: 0,
        }
    }

    /// How many tasks wait here, those included that have left for another reason.
    pub(super) fn len(&self) -> usize {
        self.n_tickets
    }

    /// Lets a task wait; `needs` is `None` for a task that asks for nothing special.
    pub(super) fn push(
        &mut self,
        needs: Option<Needs>,
        group: Option<GroupName>,
        rank: Rank,
        at: SlotRef,
    ) {
        let line = match (needs, group) {
            (None, None) => PLAIN,
            (needs, group) => self.line_of(needs, group),
        };
        self.lines[line as usize].tasks.push(Reverse((rank, at)));
        self.n_tickets += 1;
        self.last_rank = self.last_rank.max(rank.at);
        self.list(line);
    }

    fn line_of(&mut self, needs: Option<Needs>, group: Option<GroupName>) -> LineId {
        let class = needs.map_or(0, |needs| self.class_of(needs));
        if let Some(line) = self.classes[class as usize].lines.get(&group) {
            return *line;
        }
        let new = Line::new(class, group.clone());
        let line = place_in(&mut self.lines, &mut self.free_lines, new);
        if let Some(group) = &group {
            let group = self.groups.entry(group.clone()).or_default();
            group.lines.push(line);
        }
        self.classes[class as usize].lines.insert(group, line);
        line
    }

    fn class_of(&mut self, needs: Needs) -> ClassId {
        if let Some(class) = self.class_of.get(&needs) {
            return *class;
        }
        let new = Class::new(needs.clone());
        let class = place_in(&mut self.classes, &mut self.free_classes, new);
        self.class_of.insert(needs, class);
        class
    }

    /// Brings a line's place on its board up to date; one that is empty goes away.
    fn list(&mut self, id: LineId) {
        let line = &self.lines[id as usize];
        let group = line.group.as_ref().and_then(|group| self.groups.get(group));
        let closed = group.and_then(|group| group.closed);
        self.count_line(id, closed);
        let line = &mut self.lines[id as usize];
        let first = line.tasks.peek().map(|Reverse((rank, _))| *rank);
        let listed = first.filter(|_| closed.is_none());
        if line.listed != listed {
            let class = &mut self.classes[line.class as usize];
            if let Some(rank) = std::mem::replace(&mut line.listed, listed) {
                class.board.remove(&(rank, id));
            }
            if let Some(rank) = listed {
                class.board.insert((rank, id));
            }
        }
        if first.is_none() && id != PLAIN {
            self.remove_line(id);
        }
    }

    fn remove_line(&mut self, id: LineId) {
        let line = &mut self.lines[id as usize];
        let (class_id, group) = (line.class, line.group.take());
        self.free_lines.push(id);
        let class = &mut self.classes[class_id as usize];
        class.lines.remove(&group);
        if class.lines.is_empty() && class_id != 0 {
            self.class_of.remove(&class.needs);
            self.free_classes.push(class_id);
        }
        if let Some(name) = group
            && let Some(group) = self.groups.get_mut(&name)
        {
            group.lines.retain(|line| *line != id);
            if group.lines.is_empty() && group.gauge.n_running() == 0 && group.wake_at.is_none() {
                // Looked at in the next turn, and forgotten if nothing is to be remembered of it.
                group.wake_at = Some(Timestamp::EPOCH);
                self.refills.insert((Timestamp::EPOCH, name));
            }
        }
    }

    /// Whether any task could go to a worker that has all it needs.
    pub(super) fn has_any(&mut self, window: &mut Window) -> bool {
        (0..self.classes.len()).any(|class| self.first_of(class, window).is_some())
    }

    /// The task that goes next to a worker.
    pub(super) fn first(&mut self, offer: Offer<'_>, window: &mut Window) -> Option<First> {
        let mut best: Option<First> = None;
        for class in 0..self.classes.len() {
            if offer.meets(&self.classes[class].needs)
                && let Some(first) = self.first_of(class, window)
                && best.is_none_or(|best| first.rank < best.rank)
            {
                best = Some(first);
            }
        }
        best
    }

    /// The first task of a class. Forgets tasks that have left on the way.
    fn first_of(&mut self, class: usize, window: &mut Window) -> Option<First> {
        loop {
            let (_, line) = *self.classes[class].board.first()?;
            let Reverse((rank, at)) = *self.lines[line as usize].tasks.peek()?;
            match window.get_mut(at) {
                Some(entry) if entry.is_ready() => return Some(First { rank, at, line }),
                Some(entry) => entry.queued = false,
                None => {}
            }
            self.pop(line);
        }
    }

    /// Takes out what [`first`](Self::first) gave.
    pub(super) fn take(&mut self, first: First) {
        self.pop(first.line);
    }

    fn pop(&mut self, line: LineId) {
        self.lines[line as usize].tasks.pop();
        self.n_tickets -= 1;
        self.list(line);
    }

    /// Counts a task of a group that starts.
    pub(super) fn group_started(
        &mut self,
        name: &GroupName,
        offset: Offset,
        limit: &Limit,
        now: Timestamp,
    ) {
        let group = self.groups.entry(name.clone()).or_default();
        group.gauge.started(limit, now);
        group.gauge.note_holder(limit, offset);
        self.judge_group(name, limit, now);
    }

    /// Counts a task of a group that runs no longer.
    pub(super) fn group_stopped(
        &mut self,
        name: &GroupName,
        offset: Offset,
        limit: &Limit,
        now: Timestamp,
    ) {
        if let Some(group) = self.groups.get_mut(name) {
            group.gauge.stopped();
            group.gauge.forget_holder(offset);
            self.judge_group(name, limit, now);
        }
    }

    /// Opens the groups whose rates let another task start.
    pub(super) fn refill(&mut self, limit: &Limit, now: Timestamp) {
        while let Some((at, name)) = self.refills.first().cloned()
            && at <= now
        {
            self.judge_group(&name, limit, now);
        }
    }

    /// When [`refill`](Self::refill) has something to do.
    pub(super) fn refill_at(&self) -> Option<Timestamp> {
        self.refills.first().map(|(at, _)| *at)
    }

    /// Judges all groups by a limit that has changed.
    pub(super) fn judge_groups(&mut self, limit: &Limit, now: Timestamp) {
        let mut names: Vec<_> = self.groups.keys().cloned().collect();
        names.sort_unstable();
        for name in names {
            self.judge_group(&name, limit, now);
        }
    }

    /// What keeps a group from starting another task, if anything does, and some of its tasks that run.
    pub(super) fn closed_group(
        &self,
        name: &GroupName,
        limit: &Limit,
        now: Timestamp,
    ) -> Option<(Closed, Vec<Offset>)> {
        let gauge = &self.groups.get(name)?.gauge;
        let closed = gauge.closed(limit, now)?;
        Some((closed, gauge.holders()))
    }

    fn judge_group(&mut self, name: &GroupName, limit: &Limit, now: Timestamp) {
        let Some(group) = self.groups.get_mut(name) else {
            return;
        };
        let closed = group.gauge.closed(limit, now);
        let is_idle = group.lines.is_empty() && group.gauge.n_running() == 0;
        let wake_at = match closed {
            Some(Closed::Until(at)) => Some(at),
            Some(Closed::Full(_)) => None,
            // Its bucket is surely full by then, and it can be forgotten.
            None => limit.rate.filter(|_| is_idle).map(|rate| now + rate.per),
        };
        if let Some(at) = group.wake_at.take() {
            self.refills.remove(&(at, name.clone()));
        }
        if is_idle && group.gauge.is_fresh(limit, now) {
            self.groups.remove(name);
            return;
        }
        if let Some(at) = wake_at {
            group.wake_at = Some(at);
            self.refills.insert((at, name.clone()));
        }
        let before = std::mem::replace(&mut group.closed, closed);
        let kind = |closed: Closed| std::mem::discriminant(&closed);
        if before.map(kind) != closed.map(kind) {
            for line in group.lines.clone() {
                self.list(line);
            }
        }
    }

    /// Takes out tasks that wait where this worker cannot take them, of the longest lines first and from their ends,
    /// and at most `n_max`. Of each line the first ones stay, so that it can go on at once when it opens.
    pub(super) fn shed(&mut self, offer: Offer<'_>, n_max: usize) -> Vec<SlotRef> {
        let (stuck, n_kept) = self.stuck(Some(offer));
        let mut shed = Vec::new();
        for id in stuck {
            let line = &mut self.lines[id as usize];
            let mut tasks = std::mem::take(&mut line.tasks).into_vec();
            tasks.sort_unstable_by_key(|Reverse((rank, _))| *rank);
            let n_left = n_max - shed.len();
            let from = tasks.len().saturating_sub(n_left).max(n_kept);
            shed.extend(tasks.drain(from..).map(|Reverse((_, at))| at));
            line.tasks = tasks.into();
            self.list(id);
            if shed.len() >= n_max {
                break;
            }
        }
        self.n_tickets -= shed.len();
        shed
    }

    /// Whether tasks wait that no worker can take, more of a line than are to stay.
    pub(super) fn has_stuck(&self) -> bool {
        !self.stuck(None).0.is_empty()
    }

    /// Lines of which some tasks can go, the longest first, and how many tasks of each are to stay: those of closed
    /// groups, and those that a worker cannot take.
    fn stuck(&self, offer: Option<Offer<'_>>) -> (Vec<LineId>, usize) {
        let cannot = |line: &Line| {
            let needs = &self.classes[line.class as usize].needs;
            line.listed.is_none() || offer.is_some_and(|offer| !offer.meets(needs))
        };
        let lines = (0..).zip(&self.lines);
        let mut stuck: Vec<(LineId, usize)> = lines
            .filter(|(_, line)| !line.tasks.is_empty() && cannot(line))
            .map(|(id, line)| (id, line.tasks.len()))
            .collect();
        let n_kept = self.n_tickets / KEPT_PART / stuck.len().max(1);
        let n_kept = n_kept.clamp(1, KEPT_MAX);
        stuck.retain(|(_, len)| *len > n_kept);
        stuck.sort_unstable_by_key(|(id, len)| (Reverse(*len), *id));
        (stuck.into_iter().map(|(id, _)| id).collect(), n_kept)
    }

    /// Takes out all tasks, since what they need may have changed.
    pub(super) fn take_all(&mut self) -> Vec<SlotRef> {
        let mut all = Vec::with_capacity(self.n_tickets);
        for id in 0..self.lines.len() {
            #[expect(clippy::cast_possible_truncation, reason = "windows are limited")]
            let id = id as LineId;
            let tasks = std::mem::take(&mut self.lines[id as usize].tasks);
            if !tasks.is_empty() {
                all.extend(tasks.into_iter().map(|Reverse((_, at))| at));
                self.list(id);
            }
        }
        self.n_tickets = 0;
        all
    }

    /// Forgets tasks that have left memory for another reason than their turn.
    pub(super) fn forget_gone(&mut self, window: &Window) {
        self.n_tickets = 0;
        for id in 0..self.lines.len() {
            #[expect(clippy::cast_possible_truncation, reason = "windows are limited")]
            let id = id as LineId;
            let line = &mut self.lines[id as usize];
            let n_before = line.tasks.len();
            line.tasks
                .retain(|Reverse((_, at))| window.get(*at).is_some());
            self.n_tickets += line.tasks.len();
            if line.tasks.len() < n_before {
                self.list(id);
            }
        }
    }
}

/// Of the tasks that cannot start, this part of all that wait stays in memory, and at most so many of a line.
const KEPT_PART: usize = 16;
const KEPT_MAX: usize = 256;

/// A task that goes next.
#[derive(Debug, Clone, Copy)]
pub(super) struct First {
    pub(super) rank: Rank,
    pub(super) at: SlotRef,
    line: LineId,
}

impl Class {
    fn new(needs: Needs) -> Self {
        Self {
            needs,
            board: BTreeSet::new(),
            lines: FxHashMap::default(),
            n_open: 0,
        }
    }
}

impl Line {
    fn new(class: ClassId, group: Option<GroupName>) -> Self {
        Self {
            class,
            group,
            tasks: BinaryHeap::new(),
            listed: None,
            counted: tally::Counted::default(),
        }
    }
}

fn place_in<T>(places: &mut Vec<T>, free: &mut Vec<u32>, new: T) -> u32 {
    if let Some(id) = free.pop() {
        places[id as usize] = new;
        return id;
    }
    places.push(new);
    #[expect(clippy::cast_possible_truncation, reason = "windows are limited")]
    let last = (places.len() - 1) as u32;
    last
}

#[cfg(test)]
mod tests {
    use super::{super::window::Entry, *};

    fn gone() -> SlotRef {
        let submitted = crate::port::log::NewTask {
            data: bytes::Bytes::new(),
            options: None,
            traceparent: None,
        };
        let (offset, now) = (Offset::ZERO, Timestamp::EPOCH);
        let task = crate::task::state::Task::accepted(offset, now, submitted, now);
        Window::default().insert(Entry::new(task))
    }

    fn grouped(n: u64) -> (Option<GroupName>, Rank, SlotRef) {
        let name = format!("g{n}");
        let group = Some(name.as_str().try_into().unwrap());
        let rank = Rank {
            at: n,
            offset: Offset(n),
        };
        (group, rank, gone())
    }

    #[test]
    fn what_left_is_forgotten_with_its_lines_and_groups() {
        let limit = Limit::default();
        let mut ready = Ready::new();
        for n in 0..100 {
            let (group, rank, at) = grouped(n);
            ready.push(None, group, rank, at);
        }
        ready.forget_gone(&Window::default());
        ready.refill(&limit, Timestamp::EPOCH);
        assert_eq!((ready.len(), ready.groups.len()), (0, 0));
        assert_eq!(ready.refill_at(), None);
        assert_eq!(ready.lines.len(), 1 + ready.free_lines.len());
    }
}
