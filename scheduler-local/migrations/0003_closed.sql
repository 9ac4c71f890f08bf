-- A log of a pipeline that is being deleted: it takes nothing more.
ALTER TABLE log ADD COLUMN closed INTEGER NOT NULL DEFAULT 0;
