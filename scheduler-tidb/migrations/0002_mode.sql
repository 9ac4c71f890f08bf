-- The mode of a pipeline. A row that an older member wrote is active.
-- One column in each statement, so that one that was cut short goes on where it was.

ALTER TABLE pipeline ADD COLUMN IF NOT EXISTS
    mode VARCHAR(16) NOT NULL DEFAULT 'active' COMMENT 'active, paused, draining, or deleting, which stays';

ALTER TABLE pipeline ADD COLUMN IF NOT EXISTS
    paused_by TEXT COMMENT 'who paused it; only where it is paused';

ALTER TABLE pipeline ADD COLUMN IF NOT EXISTS
    paused_reason TEXT COMMENT 'why it was paused; only where it is paused';

ALTER TABLE pipeline ADD COLUMN IF NOT EXISTS
    paused_at DATETIME(3) COMMENT 'when it was paused; only where it is paused';
