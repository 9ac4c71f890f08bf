-- The limits of a pipeline as JSON, and the pool of workers that it shares; null for its own.
ALTER TABLE pipeline ADD COLUMN limits TEXT NOT NULL DEFAULT '{}';
ALTER TABLE pipeline ADD COLUMN pool TEXT;

-- The ordering key of a task that has not ended; null for a scheduled one that was never leased, since it joins its
-- key when it is due.
ALTER TABLE task ADD COLUMN ordering_key TEXT;

CREATE INDEX task_ordering_key ON task (shard, ordering_key, "offset") WHERE ordering_key IS NOT NULL;
