-- Columns hold what is queried; blobs hold the rest in the format of `codec.rs`.
-- `shard` is pipeline * 65536 + partition; times are milliseconds since 1970; the views at the end are for people.

-- Counters: `commit` grows by one in every transaction and is what the high-water mark is compared with.
CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) WITHOUT ROWID;

INSERT INTO meta (name, value) VALUES ('commit', 0), ('catalog_version', 0), ('last_pipeline', 0);

CREATE TABLE log (
    pipeline     INTEGER PRIMARY KEY,
    n_partitions INTEGER NOT NULL,
    incarnation  TEXT NOT NULL,
    removed      INTEGER NOT NULL DEFAULT 0
);

-- Where a partition that was trimmed begins. Its end is that of its last batch, or its start if there is none.
CREATE TABLE log_start (
    shard INTEGER PRIMARY KEY,
    start INTEGER NOT NULL
);

-- The records `base` to `base + n - 1` of a partition.
CREATE TABLE batch (
    shard       INTEGER NOT NULL,
    base        INTEGER NOT NULL,
    n           INTEGER NOT NULL,
    accepted_at INTEGER NOT NULL,
    records     BLOB NOT NULL,
    PRIMARY KEY (shard, base)
) WITHOUT ROWID;

CREATE TABLE shard (
    shard       INTEGER PRIMARY KEY,
    epoch       INTEGER NOT NULL,
    number      INTEGER NOT NULL,
    watermark   INTEGER NOT NULL,
    seen_end    INTEGER NOT NULL,
    released    INTEGER NOT NULL,
    address     TEXT NOT NULL,
    incarnation TEXT NOT NULL
);

CREATE TABLE done (
    shard INTEGER NOT NULL,
    chunk INTEGER NOT NULL,
    bits  BLOB NOT NULL,
    PRIMARY KEY (shard, chunk)
) WITHOUT ROWID;

-- state: 0 scheduled, 1 available, 2 running, 3 retryable, 4 completed, 5 cancelled, 6 discarded.
CREATE TABLE task (
    shard       INTEGER NOT NULL,
    "offset"    INTEGER NOT NULL,
    state       INTEGER NOT NULL,
    accepted_at INTEGER NOT NULL,
    due_at      INTEGER,
    keep_until  INTEGER,
    body        BLOB NOT NULL,
    -- Completed tasks are nearly all tasks: a list of them reads the table, a list of others the index.
    rare_state  INTEGER GENERATED ALWAYS AS (nullif(state, 4)) VIRTUAL,
    PRIMARY KEY (shard, "offset")
) WITHOUT ROWID;

CREATE INDEX task_due ON task (shard, due_at, "offset") WHERE due_at IS NOT NULL;
CREATE INDEX task_keep_until ON task (keep_until) WHERE keep_until IS NOT NULL;
CREATE INDEX task_rare_state ON task (shard, rare_state, "offset") WHERE rare_state IS NOT NULL;

CREATE TABLE idempotency_key (
    shard       INTEGER NOT NULL,
    key         TEXT NOT NULL,
    "offset"    INTEGER NOT NULL,
    fingerprint INTEGER NOT NULL,
    keep_until  INTEGER NOT NULL,
    PRIMARY KEY (shard, key)
) WITHOUT ROWID;

CREATE INDEX idempotency_key_keep_until ON idempotency_key (keep_until);

CREATE TABLE application (
    tenant      TEXT NOT NULL,
    application TEXT NOT NULL,
    revision    INTEGER NOT NULL,
    created_at  INTEGER NOT NULL,
    PRIMARY KEY (tenant, application)
) WITHOUT ROWID;

CREATE TABLE pipeline (
    number       INTEGER PRIMARY KEY,
    tenant       TEXT NOT NULL,
    application  TEXT NOT NULL,
    pipeline     TEXT NOT NULL,
    revision     INTEGER NOT NULL,
    created_at   INTEGER NOT NULL,
    n_partitions INTEGER NOT NULL,
    steps        TEXT NOT NULL,
    defaults     BLOB NOT NULL,
    UNIQUE (tenant, application, pipeline)
);

CREATE VIEW tasks AS
SELECT shard >> 16 AS pipeline,
       shard & 65535 AS "partition",
       "offset",
       CASE state WHEN 0 THEN 'scheduled' WHEN 1 THEN 'available' WHEN 2 THEN 'running' WHEN 3 THEN 'retryable'
                  WHEN 4 THEN 'completed' WHEN 5 THEN 'cancelled' WHEN 6 THEN 'discarded' END AS state,
       datetime(accepted_at / 1000, 'unixepoch') AS accepted_at,
       datetime(due_at / 1000, 'unixepoch') AS due_at,
       datetime(keep_until / 1000, 'unixepoch') AS keep_until
FROM task;

CREATE VIEW batches AS
SELECT shard >> 16 AS pipeline,
       shard & 65535 AS "partition",
       base AS first_offset,
       n AS n_records,
       datetime(accepted_at / 1000, 'unixepoch') AS accepted_at,
       length(records) AS n_bytes
FROM batch;
