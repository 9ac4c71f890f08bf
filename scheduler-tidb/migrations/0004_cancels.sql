-- Bulk cancels. A member that does not know them leaves them alone, and the next one that does goes on.

ALTER TABLE shard ADD COLUMN IF NOT EXISTS
    cancels MEDIUMTEXT NULL COMMENT 'its bulk cancels, as JSON; null for none';
