//! What happened: hashed, kept for each task, and shown to every checker.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use scheduler_core::{Held, Outcome, TaskId, Timestamp, action::Action};

use crate::{
    check::{self, Broken, Check, Found, Truth},
    fact::{Fact, token_name},
    plan::START,
};

/// The history and the checkers.
#[derive(Debug)]
pub(crate) struct Watch {
    checks: Vec<Box<dyn Check>>,
    pub(crate) broken: Option<Broken>,
    hasher: DefaultHasher,
    /// Whether every action is hashed in full, which takes its time.
    is_thorough: bool,
    lines: BTreeMap<Option<TaskId>, Vec<(Timestamp, String)>>,
    /// Whether lines are kept at all.
    keeps: bool,
    begun: BTreeSet<TaskId>,
    pub(crate) n_again: u64,
    pub(crate) n_claims: u64,
}

impl Watch {
    pub(crate) fn new(is_thorough: bool, keeps: bool) -> Self {
        Self {
            checks: check::all(),
            broken: None,
            hasher: DefaultHasher::new(),
            is_thorough,
            lines: BTreeMap::new(),
            keeps,
            begun: BTreeSet::new(),
            n_again: 0,
            n_claims: 0,
        }
    }

    pub(crate) fn n_begun(&self) -> u64 {
        self.begun.len() as u64
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hasher.finish()
    }

    pub(crate) fn hash_actions(&mut self, actions: &[Action]) {
        if self.is_thorough {
            format!("{actions:?}").hash(&mut self.hasher);
        } else {
            actions.len().hash(&mut self.hasher);
        }
    }

    pub(crate) fn note(&mut self, fact: &Fact, truth: Truth<'_>) {
        truth.now.hash(&mut self.hasher);
        fact.task().hash(&mut self.hasher);
        if self.keeps {
            self.keep(fact, truth.now);
        }
        match fact {
            Fact::Began(_, held) => self.n_again += u64::from(!self.begun.insert(held.id)),
            Fact::Started(..) => self.n_claims += 1,
            _ => {}
        }
        self.look(|check| check.see(fact, truth));
    }

    pub(crate) fn at_rest(&mut self, truth: Truth<'_>) {
        self.look(|check| check.at_rest(truth));
    }

    pub(crate) fn at_end(&mut self, truth: Truth<'_>) {
        self.look(|check| check.at_end(truth));
    }

    fn look(&mut self, mut ask: impl FnMut(&mut Box<dyn Check>) -> Found) {
        if self.broken.is_some() {
            return;
        }
        for check in &mut self.checks {
            if let Err((task, why)) = ask(check) {
                let promise = check.promise();
                self.broken = Some(Broken { promise, task, why });
                return;
            }
        }
    }

    fn keep(&mut self, fact: &Fact, now: Timestamp) {
        let mut add = |task, line| self.lines.entry(task).or_default().push((now, line));
        match fact {
            Fact::Loaded(..) | Fact::Watermark(..) | Fact::Trimmed(..) | Fact::Counted(..) => {}
            Fact::Saved(parts, at, _) => {
                let part = &parts[*at];
                let epoch = part.epoch.0;
                for task in &part.tasks {
                    let token = token_name(task.token);
                    let (shard, offset) = (part.shard, task.offset);
                    let line = format!(
                        "saved by epoch {epoch}: attempt {}, lease {token}, {:?}",
                        task.attempt, task.state
                    );
                    add(Some(TaskId { shard, offset }), line);
                }
                for offset in &part.forgotten {
                    let (shard, offset) = (part.shard, *offset);
                    let line = format!("forgotten by epoch {epoch}");
                    add(Some(TaskId { shard, offset }), line);
                }
            }
            Fact::Started(member, claimed) => {
                let line = format!(
                    "member {member} claimed shard {}: epoch {}, watermark {}, released: {}, {} running",
                    claimed.shard,
                    claimed.epoch.0,
                    claimed.watermark.0,
                    claimed.released,
                    claimed.running.len()
                );
                add(None, line);
            }
            Fact::Ended(member, ids) => {
                for id in ids {
                    add(Some(*id), format!("member {member} says that it ended"));
                }
            }
            Fact::Placed(member, event) => add(None, format!("member {member} hears: {event:?}")),
            Fact::Fate(what, n) => add(None, format!("{n} {what}")),
            fact => add(fact.task(), line_of(fact)),
        }
    }

    /// The history of one task, with what happened to its shard and the cluster meanwhile.
    pub(crate) fn history(&self, task: Option<TaskId>, n_max: usize) -> String {
        let mut lines: Vec<_> = self.lines.get(&task).into_iter().flatten().collect();
        if task.is_some() {
            let shard = task.map(|task| format!("shard {}:", task.shard));
            let is_ours = |line: &str| {
                !line.contains("shard ") || shard.as_ref().is_some_and(|shard| line.contains(shard))
            };
            let all = self.lines.get(&None).into_iter().flatten();
            lines.extend(all.filter(|(_, line)| is_ours(line)));
        }
        lines.sort_by_key(|(at, _)| *at);
        let from = lines.len().saturating_sub(n_max);
        let mut text = String::new();
        for (at, line) in &lines[from..] {
            let seconds = at.since(START).as_secs_f64();
            // Writing to a string cannot fail.
            writeln!(text, "{seconds:>9.3}  {line}").ok();
        }
        text
    }
}

fn line_of(fact: &Fact) -> String {
    let held_name = |held: &Held| token_name(held.token);
    match fact {
        Fact::Granted(grant) => format!(
            "member {} grants {} to {}, attempt {} ({})",
            grant.member,
            held_name(&grant.held),
            grant.worker,
            grant.attempt,
            grant.name
        ),
        Fact::Ungranted(held) => format!("grant {} is taken back", held_name(held)),
        Fact::Heard(member, held, outcome) => format!(
            "member {member} hears under {}: {}",
            held_name(held),
            outcome_name(outcome)
        ),
        Fact::Reported(member, held, outcome, answer) => format!(
            "member {member} answers the report under {} ({}): {answer:?}",
            held_name(held),
            outcome_name(outcome)
        ),
        Fact::Renewed(member, held, is_ok) => {
            format!("member {member} renews {}: {is_ok}", held_name(held))
        }
        Fact::Declared(member, held) => {
            format!("member {member} knows that {} is held", held_name(held))
        }
        Fact::Began(worker, held) => format!("worker {worker} begins {}", held_name(held)),
        fact => format!("{fact:?}"),
    }
}

fn outcome_name(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Completed { .. } => "completed",
        Outcome::Failed(_) => "failed",
        Outcome::Interrupted => "interrupted",
        Outcome::Snoozed(_) => "snoozed",
    }
}
