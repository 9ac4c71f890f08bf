-- The bulk cancels of a shard, as a JSON array.
ALTER TABLE shard ADD COLUMN cancels TEXT NOT NULL DEFAULT '[]';
