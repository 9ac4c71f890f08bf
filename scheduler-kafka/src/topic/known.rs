//! Which topic belongs to which pipeline, as far as this process was told.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use scheduler_core::{
    Pipeline, PipelineNumber, ShardId,
    port::{FailureKind, PortError},
};

use crate::{error::unavailable, native::Described};

/// A pipeline's topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) name: Arc<str>,
    pub(crate) id: Arc<str>,
    pub(crate) n_partitions: usize,
}

/// The topics of pipelines.
#[derive(Debug, Default)]
pub(crate) struct Topics(RwLock<State>);

#[derive(Debug, Default)]
struct State {
    by_number: HashMap<PipelineNumber, Known>,
    by_name: HashMap<Arc<str>, PipelineNumber>,
    looked_at: HashSet<Arc<str>>,
}

impl Topics {
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the topic that was found for a pipeline, if it can be its.
    pub(crate) fn learn(
        &self,
        operation: &'static str,
        pipeline: &Pipeline,
        name: &Arc<str>,
        found: &Described,
    ) -> Result<(), PortError> {
        let wanted = usize::from(pipeline.spec.n_partitions);
        let n_partitions = found.n_partitions;
        if n_partitions < wanted {
            let why = format!(
                "topic {name} has {n_partitions} partitions, but the pipeline has {wanted}: \
                 add partitions, or delete the topic if its tasks may be lost"
            );
            return Err(PortError::new(operation, FailureKind::Damaged).caused_by(why));
        }
        let mut state = self.write();
        if let Some(before) = state.by_name.get(name).copied()
            && before != pipeline.number
        {
            // Only a new topic is the new pipeline's: the old one holds tasks of the old.
            if state
                .by_number
                .get(&before)
                .is_some_and(|known| known.id == found.id)
            {
                let why =
                    format!("topic {name} still holds the tasks of a pipeline that was deleted");
                return Err(unavailable(operation, why));
            }
            state.by_number.remove(&before);
        }
        let known = Known {
            name: Arc::clone(name),
            id: Arc::clone(&found.id),
            n_partitions,
        };
        state.by_number.insert(pipeline.number, known);
        state.by_name.insert(Arc::clone(name), pipeline.number);
        Ok(())
    }

    /// Forgets a pipeline; false if its name is another's by now.
    pub(crate) fn forget(&self, number: PipelineNumber, name: &Arc<str>) -> bool {
        let mut state = self.write();
        state.by_number.remove(&number);
        state.looked_at.remove(name);
        match state.by_name.get(name) {
            Some(owner) if *owner != number => false,
            _ => {
                state.by_name.remove(name);
                true
            }
        }
    }

    /// The topic of a pipeline.
    pub(crate) fn of(&self, number: PipelineNumber) -> Option<Known> {
        self.read().by_number.get(&number).cloned()
    }

    /// The topic that holds a shard.
    pub(crate) fn holding(
        &self,
        operation: &'static str,
        shard: ShardId,
    ) -> Result<Known, PortError> {
        self.of(shard.pipeline)
            .filter(|known| usize::from(shard.partition.0) < known.n_partitions)
            .ok_or_else(|| unavailable(operation, format!("there is no log of shard {shard}")))
    }

    /// Notes that a topic was made again.
    pub(crate) fn renew(&self, number: PipelineNumber, id: &Arc<str>) {
        if let Some(known) = self.write().by_number.get_mut(&number) {
            known.id = Arc::clone(id);
        }
    }

    /// Those whose settings this process has not seen yet; they count as seen from now on.
    pub(crate) fn not_looked_at(&self, mut names: Vec<Arc<str>>) -> Vec<Arc<str>> {
        let mut state = self.write();
        names.retain(|name| state.looked_at.insert(Arc::clone(name)));
        names
    }
}

#[cfg(test)]
mod tests {
    use scheduler_core::{PipelineSpec, Revision, TaskOptions, Timestamp};

    use super::*;

    fn pipeline(number: u32) -> Pipeline {
        Pipeline {
            number: PipelineNumber(number),
            path: scheduler_core::path("t", "a", "p").unwrap(),
            revision: Revision(1),
            spec: PipelineSpec {
                steps: [].into(),
                defaults: TaskOptions::default(),
                n_partitions: 2,
                ..PipelineSpec::default()
            },
            mode: scheduler_core::Mode::Active,
            created_at: Timestamp::EPOCH,
        }
    }

    fn learn(
        topics: &Topics,
        number: u32,
        id: &str,
        n_partitions: usize,
    ) -> Result<(), FailureKind> {
        let found = Described {
            id: id.into(),
            n_partitions,
            has_leaders: true,
        };
        topics
            .learn("test", &pipeline(number), &"w.t.a.p".into(), &found)
            .map_err(|err| err.kind())
    }

    #[test]
    fn more_partitions_are_fine_and_fewer_are_damage() {
        let topics = Topics::default();
        assert_eq!(learn(&topics, 1, "x", 1), Err(FailureKind::Damaged));
        assert_eq!(topics.of(PipelineNumber(1)), None);
        assert_eq!(learn(&topics, 1, "x", 3), Ok(()));
    }

    #[test]
    fn the_topic_of_a_deleted_pipeline_is_not_the_next_ones() {
        let topics = Topics::default();
        learn(&topics, 1, "x", 2).unwrap();
        assert_eq!(learn(&topics, 2, "x", 2), Err(FailureKind::Unavailable));
        assert_eq!(learn(&topics, 2, "y", 2), Ok(()));
        assert_eq!(topics.of(PipelineNumber(1)), None);
        let name = "w.t.a.p".into();
        assert!(!topics.forget(PipelineNumber(1), &name), "it is another's");
        assert!(topics.forget(PipelineNumber(2), &name));
    }
}
