-- Each statement can be run again: two members may migrate at once, and one may be cut short.
-- Times are UTC. Keys lead with the shard (pipeline, partition), so that writes spread over regions.

CREATE TABLE IF NOT EXISTS shard (
    pipeline       INT UNSIGNED NOT NULL COMMENT 'number of the pipeline: see the table pipeline',
    `partition`    SMALLINT UNSIGNED NOT NULL COMMENT 'partition of the pipeline''s log, from 0',
    epoch          INT UNSIGNED NOT NULL COMMENT 'grows at every claim; a flush under another epoch is refused',
    flush_number   BIGINT UNSIGNED NOT NULL DEFAULT 0 COMMENT 'the last flush of this epoch',
    watermark      BIGINT UNSIGNED NOT NULL DEFAULT 0 COMMENT 'below this offset every task is ended or stored',
    seen_end       BIGINT UNSIGNED NOT NULL DEFAULT 0 COMMENT 'end of the log as the owner last saw it',
    released_epoch INT UNSIGNED COMMENT 'the epoch whose owner gave the shard up in order',
    address        VARCHAR(1024) NOT NULL COMMENT 'where the newest owner said that it can be reached: a hint',
    incarnation    VARCHAR(1024) NOT NULL COMMENT 'the log that the first owner saw',
    claimed_at     DATETIME(3) NOT NULL COMMENT 'when the newest owner claimed it',
    flushed_at     DATETIME(3) COMMENT 'when it was last flushed',
    PRIMARY KEY (pipeline, `partition`) CLUSTERED
) DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin COMMENT 'one row per partition of a pipeline: who owns it and how far it is';

CREATE TABLE IF NOT EXISTS done (
    pipeline    INT UNSIGNED NOT NULL,
    `partition` SMALLINT UNSIGNED NOT NULL,
    chunk       BIGINT UNSIGNED NOT NULL COMMENT 'stands for the offsets from chunk * 1024',
    n_done      SMALLINT UNSIGNED NOT NULL COMMENT 'how many of the 1024 are done',
    bits        VARBINARY(128) NOT NULL COMMENT 'bit o % 64 of the little-endian word (o % 1024) / 64 is offset o',
    PRIMARY KEY (pipeline, `partition`, chunk) CLUSTERED
) DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin COMMENT 'tasks above the watermark that are ended or stored';

CREATE TABLE IF NOT EXISTS task (
    pipeline    INT UNSIGNED NOT NULL,
    `partition` SMALLINT UNSIGNED NOT NULL,
    `offset`    BIGINT UNSIGNED NOT NULL COMMENT 'place in the log',
    format      TINYINT UNSIGNED NOT NULL DEFAULT 1 COMMENT 'what the columns mean; raised only by what older programs must not read',
    state       VARCHAR(16) NOT NULL
                COMMENT 'scheduled, available, running, retryable, cancelled or discarded',
    attempt     INT UNSIGNED NOT NULL COMMENT 'attempts begun',
    token       BIGINT UNSIGNED NOT NULL COMMENT 'newest lease token: epoch * 2^40 + n',
    accepted_at DATETIME(3) NOT NULL COMMENT 'when the log took it',
    started_at  DATETIME(3) COMMENT 'when its first attempt began',
    due_at      DATETIME(3) COMMENT 'when it can run; only where it waits',
    worker      VARCHAR(128) COMMENT 'who has it; only where it runs',
    leased_at   DATETIME(3) COMMENT 'when this attempt began; only where it runs',
    ended_at    DATETIME(3) COMMENT 'when it ended',
    keep_until  DATETIME(3) COMMENT 'when it may be forgotten; null where it has not ended, and for never',
    n_bytes     INT UNSIGNED NOT NULL COMMENT 'size of data and errors',
    data        LONGBLOB NOT NULL COMMENT 'what was submitted',
    options     MEDIUMTEXT COMMENT 'options that the submit gave, as JSON',
    errors      MEDIUMTEXT COMMENT 'what went wrong in each failed attempt, as JSON, oldest first',
    traceparent TEXT COMMENT 'W3C trace of the submit',
    PRIMARY KEY (pipeline, `partition`, `offset`) CLUSTERED,
    KEY due (pipeline, `partition`, due_at, `offset`, n_bytes),
    KEY state (pipeline, `partition`, state, `offset`)
) DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin COMMENT 'tasks that are stored and not completed'
  TTL = keep_until + INTERVAL 14 HOUR TTL_ENABLE = 'ON' TTL_JOB_INTERVAL = '1h';

CREATE TABLE IF NOT EXISTS completed_task (
    pipeline    INT UNSIGNED NOT NULL,
    `partition` SMALLINT UNSIGNED NOT NULL,
    `offset`    BIGINT UNSIGNED NOT NULL COMMENT 'place in the log',
    format      TINYINT UNSIGNED NOT NULL DEFAULT 1 COMMENT 'what the columns mean; raised only by what older programs must not read',
    attempt     INT UNSIGNED NOT NULL COMMENT 'attempts begun',
    token       BIGINT UNSIGNED NOT NULL COMMENT 'newest lease token: epoch * 2^40 + n',
    accepted_at DATETIME(3) NOT NULL COMMENT 'when the log took it',
    started_at  DATETIME(3) COMMENT 'when its first attempt began',
    ended_at    DATETIME(3) NOT NULL COMMENT 'when it ended',
    keep_until  DATETIME(3) COMMENT 'when it may be forgotten; null for never',
    n_bytes     INT UNSIGNED NOT NULL COMMENT 'size of data, result and errors',
    data        LONGBLOB NOT NULL COMMENT 'what was submitted',
    result      LONGBLOB NOT NULL COMMENT 'the result: a JSON value',
    options     MEDIUMTEXT COMMENT 'options that the submit gave, as JSON',
    errors      MEDIUMTEXT COMMENT 'what went wrong in each failed attempt, as JSON, oldest first',
    traceparent TEXT COMMENT 'W3C trace of the submit',
    PRIMARY KEY (pipeline, `partition`, `offset`) CLUSTERED
) DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin COMMENT 'completed tasks: nearly all tasks, so they have no index but their key'
  TTL = keep_until + INTERVAL 14 HOUR TTL_ENABLE = 'ON' TTL_JOB_INTERVAL = '1h';

CREATE TABLE IF NOT EXISTS idempotency_key (
    pipeline    INT UNSIGNED NOT NULL,
    `partition` SMALLINT UNSIGNED NOT NULL,
    `key`       VARCHAR(255) NOT NULL,
    `offset`    BIGINT UNSIGNED NOT NULL COMMENT 'the first task submitted with it',
    fingerprint BIGINT UNSIGNED NOT NULL COMMENT 'hash of data and options',
    keep_until  DATETIME(3) COMMENT 'when it may be used again; null for never',
    PRIMARY KEY (pipeline, `partition`, `key`) CLUSTERED
) DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin COMMENT 'which task an idempotency key stands for'
  TTL = keep_until + INTERVAL 14 HOUR TTL_ENABLE = 'ON' TTL_JOB_INTERVAL = '1h';

CREATE TABLE IF NOT EXISTS catalog (
    id            TINYINT UNSIGNED NOT NULL COMMENT 'always 1',
    version       BIGINT UNSIGNED NOT NULL COMMENT 'grows by one with every change',
    last_pipeline INT UNSIGNED NOT NULL COMMENT 'the last number given to a pipeline; none is given twice',
    PRIMARY KEY (id) CLUSTERED
) DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin COMMENT 'one row, which every change of application and pipeline locks';

INSERT IGNORE INTO catalog (id, version, last_pipeline) VALUES (1, 0, 0);

CREATE TABLE IF NOT EXISTS application (
    tenant      VARCHAR(40) NOT NULL,
    application VARCHAR(40) NOT NULL,
    revision    BIGINT UNSIGNED NOT NULL COMMENT 'grows with every change',
    created_at  DATETIME(3) NOT NULL,
    PRIMARY KEY (tenant, application) CLUSTERED
) DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin COMMENT 'applications';

CREATE TABLE IF NOT EXISTS pipeline (
    tenant       VARCHAR(40) NOT NULL,
    application  VARCHAR(40) NOT NULL,
    pipeline     VARCHAR(40) NOT NULL,
    number       INT UNSIGNED NOT NULL COMMENT 'never given to another pipeline, also after this one is deleted',
    format       TINYINT UNSIGNED NOT NULL DEFAULT 1 COMMENT 'what the columns mean; raised only by what older programs must not read',
    revision     BIGINT UNSIGNED NOT NULL COMMENT 'grows with every change',
    created_at   DATETIME(3) NOT NULL,
    n_partitions SMALLINT UNSIGNED NOT NULL,
    steps        MEDIUMTEXT NOT NULL COMMENT 'executors and their command lines, as JSON',
    defaults     MEDIUMTEXT NOT NULL COMMENT 'options that its tasks start from, as JSON',
    PRIMARY KEY (tenant, application, pipeline) CLUSTERED,
    UNIQUE KEY number (number)
) DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin COMMENT 'pipelines';

CREATE OR REPLACE VIEW tasks AS
SELECT p.tenant, p.application, p.pipeline, t.`partition`, t.`offset`, t.state, t.attempt, t.accepted_at, t.started_at,
       t.due_at, t.worker, t.leased_at, t.ended_at, t.keep_until, t.data, NULL AS result, t.errors, t.options,
       t.pipeline AS number
FROM task t LEFT JOIN pipeline p ON p.number = t.pipeline
UNION ALL
SELECT p.tenant, p.application, p.pipeline, t.`partition`, t.`offset`, 'completed', t.attempt, t.accepted_at, t.started_at,
       NULL, NULL, NULL, t.ended_at, t.keep_until, t.data, t.result, t.errors, t.options,
       t.pipeline
FROM completed_task t LEFT JOIN pipeline p ON p.number = t.pipeline;

CREATE OR REPLACE VIEW shards AS
SELECT p.tenant, p.application, p.pipeline, s.`partition`, s.address AS owner, s.epoch,
       s.released_epoch IS NOT NULL AND s.released_epoch = s.epoch AS released,
       s.watermark, s.seen_end, s.claimed_at, s.flushed_at, s.pipeline AS number
FROM shard s LEFT JOIN pipeline p ON p.number = s.pipeline;
