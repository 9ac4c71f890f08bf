-- Ordering keys of tasks, limits and pools of pipelines. Rows that an older member wrote have none.
-- One column or index in each statement, so that one that was cut short goes on where it was.

ALTER TABLE pipeline ADD COLUMN IF NOT EXISTS
    limits MEDIUMTEXT NULL COMMENT 'how many tasks may run at once or start in a while, as JSON; null for no limit';

ALTER TABLE pipeline ADD COLUMN IF NOT EXISTS
    pool VARCHAR(40) NULL COMMENT 'the workers that it shares with other pipelines; null for its own';

ALTER TABLE task ADD COLUMN IF NOT EXISTS
    ordering_key VARCHAR(255) NULL
    COMMENT 'its ordering key; only where it has not ended, and not where it is scheduled and was never leased';

ALTER TABLE task ADD INDEX IF NOT EXISTS
    ordering_key (pipeline, `partition`, ordering_key, `offset`, n_bytes);
