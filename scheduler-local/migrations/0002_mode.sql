-- The mode of a pipeline: active, paused, draining, or deleting, which stays.
-- Who paused it, why and when; null in every other mode.
ALTER TABLE pipeline ADD COLUMN mode TEXT NOT NULL DEFAULT 'active';
ALTER TABLE pipeline ADD COLUMN paused_by TEXT;
ALTER TABLE pipeline ADD COLUMN paused_reason TEXT;
ALTER TABLE pipeline ADD COLUMN paused_at INTEGER;
