-- The tables of pgmeaning. Functions and views are repeatable and live in ../functions.
-- Runs with search_path = pgmeaning, the schema of pgvector, pg_catalog.

CREATE SCHEMA pgmeaning_data;

-- Which models there are, and everything that changes their vectors.
CREATE TABLE pgmeaning.model (
    name            text PRIMARY KEY,
    kind            text NOT NULL CHECK (kind IN ('embedder', 'reranker')),
    backend         text NOT NULL,
    status          text NOT NULL CHECK (status IN ('default', 'supported', 'deprecated', 'retired')),
    location        text,
    revision        text,
    dimensions      int  NOT NULL CHECK (dimensions BETWEEN 0 AND 16000),
    min_dimensions  int  CHECK (min_dimensions BETWEEN 1 AND dimensions),
    max_tokens      int,
    template        text,
    pooling         text,
    normalize       bool NOT NULL DEFAULT true,
    query_prompt    text,
    document_prompt text,
    modalities      text[] NOT NULL DEFAULT '{text}',
    options         jsonb NOT NULL DEFAULT '{}',
    reranker        text REFERENCES pgmeaning.model,  -- of an embedder: the one that becomes the default along with it
    fingerprint     text NOT NULL,
    added_at        timestamptz NOT NULL DEFAULT now(),
    allowed         bool NOT NULL DEFAULT false,  -- whether anybody may ask for it, also where no collection has it
    replacement     text REFERENCES pgmeaning.model  -- of one that is deprecated or retired; null: the default
);
CREATE UNIQUE INDEX model_one_default ON pgmeaning.model (kind) WHERE status = 'default';

CREATE TABLE pgmeaning.release (
    name       text PRIMARY KEY,
    embedder   text NOT NULL REFERENCES pgmeaning.model,
    reranker   text REFERENCES pgmeaning.model,
    dimensions int  NOT NULL,
    current    bool NOT NULL DEFAULT false,
    signed_off_by text,
    signed_off_at timestamptz
);
CREATE UNIQUE INDEX release_one_current ON pgmeaning.release (current) WHERE current;

-- What inputs gave a model's vectors, and what made them: a process that gives others must not serve it.
CREATE TABLE pgmeaning.model_probe (
    model     text NOT NULL REFERENCES pgmeaning.model ON DELETE CASCADE,
    number    int NOT NULL,
    input     jsonb NOT NULL,  -- {"text": ...}, or {"image": {"width": ..., "height": ...}}, which is made from numbers
    as_query  bool NOT NULL,
    embedding vector NOT NULL,  -- of all the model's dimensions
    backend   text NOT NULL,
    dtype     text,  -- null: unknown, as of an endpoint
    device    text,
    libraries jsonb NOT NULL DEFAULT '{}',
    origin    text,  -- the release that brought it; null: the first process here that ran the model
    made_at   timestamptz NOT NULL DEFAULT now(),
    made_by   name NOT NULL DEFAULT session_user,
    PRIMARY KEY (model, number)
);

-- What was decided about models and releases, by whom: to look up later; nothing depends on it.
CREATE TABLE pgmeaning.registry_log (
    decided_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    decided_by name NOT NULL DEFAULT current_user,
    decision   text NOT NULL,  -- the function that was called
    subject    text NOT NULL,  -- the name of a model or release
    details    jsonb
);

-- A source table, the columns of it that are embedded, and where the vectors go. While a swap is under way, there are
-- two generations of a collection: each is a row here, with triggers and a vector table of its own, and only the one
-- that serves has the collection's plain name.
-- source is a regclass, which a dump writes as a name; source_name is for messages once it is gone.
CREATE TABLE pgmeaning.collection (
    id                 int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name               text NOT NULL UNIQUE,  -- 'docs'; of a generation that does not serve: 'docs@2'
    generation         int NOT NULL DEFAULT 1,
    role               text NOT NULL DEFAULT 'active' CHECK (role IN ('active', 'filling', 'previous')),
    source             regclass NOT NULL,  -- 0 while it is orphaned
    source_name        text NOT NULL,
    view_schema        name NOT NULL,
    key_columns        name[] NOT NULL,
    key_types          text[] NOT NULL,
    vector_key_columns name[] NOT NULL,  -- the same, but for names that the vector table needs itself
    columns            name[] NOT NULL,
    template           text,
    image              name,
    video              name,
    chunking           jsonb,
    grant_to           name[] NOT NULL DEFAULT '{}',
    language           text,  -- a text search configuration's: there is a column of words. Null: there is none
    model              text NOT NULL REFERENCES pgmeaning.model,  -- the active one
    state              text NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'paused')),
    always             bool NOT NULL DEFAULT false,  -- whether its triggers fire for writes by replication too
    problem            text,  -- why it is broken, such as a renamed column; null: it is not
    key_problem        text,  -- why its vector tables could not follow a key whose type changed
    kept_until         timestamptz,  -- set: it is orphaned, its table was dropped, and its vectors are kept until then
    adopted_at         timestamptz,  -- when another table took the place of one that was dropped
    awaits_rows        bool NOT NULL DEFAULT false,  -- since then no row was seen: its vectors stay, rows may follow
    preferred          bool NOT NULL DEFAULT false,  -- of a table's collections the default one; else it is the first
    warning            text,  -- what is not as it should be, though it works
    marks              text[],  -- of the catalog, as last looked at: see _marks()
    attached_at        timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX collection_source ON pgmeaning.collection (source);

-- One vector table per (collection, model), and how far the scan of the source has come.
CREATE TABLE pgmeaning.target (
    collection_id int NOT NULL REFERENCES pgmeaning.collection ON DELETE CASCADE,
    model         text NOT NULL REFERENCES pgmeaning.model,
    dimensions    int NOT NULL,
    vector_type   text NOT NULL DEFAULT 'vector',  -- its column is gone after DROP EXTENSION vector CASCADE
    vectors       regclass NOT NULL,
    fingerprint   text NOT NULL,  -- of the model that makes them
    scanning      bool NOT NULL DEFAULT true,  -- a backfill or a reconcile is under way
    scan_cursor   jsonb,                       -- the last key that it has seen; null: none yet
    scanned       bigint NOT NULL DEFAULT 0,
    scan_started_at  timestamptz NOT NULL DEFAULT now(),
    scan_finished_at timestamptz,
    scan_problem     text,  -- why the source cannot be scanned; null: it can
    scan_retry_at    timestamptz,
    -- What slows a swap's scan down, or ends it early; null: nothing does.
    scan_until       bigint,       -- after so many rows
    scan_tokens      bigint,       -- once the model has read so many
    scan_rate        float8,       -- rows a second
    scan_share       float8,       -- of a sidecar's model
    scan_allowed_at  timestamptz,  -- by scan_rate, the next page
    PRIMARY KEY (collection_id, model)
);
CREATE INDEX target_vectors ON pgmeaning.target (vectors);

-- What making a target's vectors took, summed up: a sidecar adds to it now and then.
CREATE TABLE pgmeaning.usage (
    collection_id int NOT NULL,
    model         text NOT NULL,
    documents     bigint NOT NULL DEFAULT 0,  -- that a model has read
    tokens        bigint NOT NULL DEFAULT 0,
    seconds       float8 NOT NULL DEFAULT 0,  -- of the model
    cut           bigint NOT NULL DEFAULT 0,  -- documents longer than the model reads
    reused        bigint NOT NULL DEFAULT 0,  -- rows whose vectors another generation had
    PRIMARY KEY (collection_id, model),
    FOREIGN KEY (collection_id, model) REFERENCES pgmeaning.target ON DELETE CASCADE
);

-- Changes of a collection's model or definition, those that are over, too. old_id and new_id: the two generations.
CREATE TABLE pgmeaning.swap (
    id            int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    collection    text NOT NULL,
    old_id        int NOT NULL,
    new_id        int NOT NULL,
    old_generation int NOT NULL,
    new_generation int NOT NULL,
    state         text NOT NULL DEFAULT 'filling' CHECK (state IN ('filling', 'activated', 'finished', 'cancelled')),
    changes       jsonb NOT NULL,
    price         float8,  -- of a million tokens
    gate          jsonb NOT NULL DEFAULT '{}',  -- what must hold before the new generation serves
    overruled     jsonb NOT NULL DEFAULT '[]',  -- what did not hold when it was made to serve, who did that, and why
    started_at    timestamptz NOT NULL DEFAULT now(),
    started_by    name NOT NULL DEFAULT current_user,
    activated_at  timestamptz,
    ended_at      timestamptz
);
CREATE UNIQUE INDEX swap_one_open ON pgmeaning.swap (collection) WHERE state IN ('filling', 'activated');
CREATE INDEX swap_generations ON pgmeaning.swap (old_id, new_id) WHERE state IN ('filling', 'activated');

-- Vector tables that detach() left behind, and what they hold; attach() takes up those that fit.
CREATE TABLE pgmeaning.kept_vectors (
    vectors    regclass PRIMARY KEY,
    collection text NOT NULL,  -- the name that it had
    definition jsonb NOT NULL,
    grant_to   name[] NOT NULL,
    kept_at    timestamptz NOT NULL DEFAULT now()
);

-- What is wanted of a vector table's index, and what was measured of the one there is. No row: the default, and nothing
-- was measured.
CREATE TABLE pgmeaning.vector_index (
    collection_id      int NOT NULL,
    model              text NOT NULL,
    wanted             text NOT NULL DEFAULT 'auto' CHECK (wanted IN ('auto', 'none', 'signature', 'prefix', 'direct',
                                                                      'diskann', 'vchordrq')),
    wanted_dimensions  int,     -- of a prefix; null: as planned
    measure_requested  bool NOT NULL DEFAULT false,
    problem            text,    -- why the last build or measurement failed
    failures           int NOT NULL DEFAULT 0,  -- one after the other
    retry_at           timestamptz,             -- before, no sidecar tries again
    built_at           timestamptz,
    build_seconds      float8,
    build_kind         text,
    usual_seconds      float8,  -- how long such a build takes elsewhere
    kind               text,    -- what was measured: an index's kind, or 'scan', by signature without an index
    measured_at        timestamptz,
    measured_rows      bigint,
    sample             int,
    recall_goal        float8,
    recall             float8,
    candidates         int,     -- for k = 10
    milliseconds       float8,
    milliseconds_95    float8,
    exact_milliseconds float8,
    PRIMARY KEY (collection_id, model),
    FOREIGN KEY (collection_id, model) REFERENCES pgmeaning.target ON DELETE CASCADE
);

-- What the triggers write; append-only for users. A note instead of a key: 'truncate', 'reconcile' or 'broken: ...'.
CREATE TABLE pgmeaning.inbox (
    collection_id int NOT NULL,
    key           jsonb,
    note          text,
    written_at    timestamptz NOT NULL DEFAULT now()
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000,
        autovacuum_vacuum_insert_threshold = -1);
-- The same for statements that change many rows, so that a single change need not wait until theirs are folded.
CREATE TABLE pgmeaning.bulk_inbox (
    LIKE pgmeaning.inbox INCLUDING DEFAULTS
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000,
        autovacuum_vacuum_insert_threshold = -1);
-- Without an identity a publication FOR ALL TABLES would refuse the sidecar's DELETE.
ALTER TABLE pgmeaning.inbox REPLICA IDENTITY FULL;
ALTER TABLE pgmeaning.bulk_inbox REPLICA IDENTITY FULL;

-- A plain counter would restart when a row is deleted and queued again; a sequence never does.
CREATE SEQUENCE pgmeaning.generation;

-- One row per (collection, model, key) that owes a vector or a removal; only sidecars touch it.
CREATE TABLE pgmeaning.queue (
    collection_id int NOT NULL,
    model         text NOT NULL,
    key           jsonb NOT NULL,
    generation    bigint NOT NULL DEFAULT nextval('pgmeaning.generation'),
    visible_at    timestamptz NOT NULL DEFAULT now(),  -- a claim moves it to the end of its lease
    attempts      int NOT NULL DEFAULT 0,
    died          int NOT NULL DEFAULT 0,  -- the attempts among them that ended with their sidecar, as far as is known
    priority      smallint NOT NULL DEFAULT 0,  -- 2: a change, 1: one of a bulk, 0: a backfill
    owed_since    timestamptz NOT NULL DEFAULT now(),
    claimed_by    uuid,
    failed_at     timestamptz,  -- set: no more attempts until retry()
    last_error    text,
    PRIMARY KEY (collection_id, model, key)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000,
        autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 50000);
CREATE INDEX queue_claimable ON pgmeaning.queue (model, priority DESC, visible_at) WHERE failed_at IS NULL;
CREATE INDEX queue_suspect ON pgmeaning.queue (model, visible_at) WHERE failed_at IS NULL AND died > 0;

-- Query vectors, by hash: the text of a query is kept nowhere once it is answered.
CREATE TABLE pgmeaning.query_cache (
    model      text NOT NULL REFERENCES pgmeaning.model,
    as_query   bool NOT NULL,
    input_hash bytea NOT NULL,
    embedding  vector NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (model, as_query, input_hash)
);
CREATE INDEX query_cache_age ON pgmeaning.query_cache (created_at);

-- Queries that wait for a sidecar; with documents, questions to a reranker, whose replies stand here until they are
-- fetched. Whoever asked alone knows the id.
CREATE TABLE pgmeaning.request (
    id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    asker      oid NOT NULL,  -- a role, which may have so many requests open
    model      text NOT NULL,
    as_query   bool NOT NULL,
    input      text NOT NULL,  -- empty once it has failed
    input_hash bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL,
    claimed_by uuid,
    claimed_pid int,  -- of the sidecar's session
    loading_since timestamptz,  -- whoever claimed it has been loading its model since then
    error      text,
    documents  text[],
    reply      text
);
CREATE INDEX request_unclaimed ON pgmeaning.request (created_at) WHERE claimed_by IS NULL;
CREATE INDEX request_equal ON pgmeaning.request (input_hash);

-- The role that the loopback logs in as, and its password. A materialized view, since a dump holds how it is made and
-- not what is in it: a database restored from one has another role, without a way into the one that was dumped.
CREATE MATERIALIZED VIEW pgmeaning.loopback AS
SELECT 'pgmeaning_loopback_' || d.oid AS login, gen_random_uuid()::text || gen_random_uuid()::text AS password
FROM pg_catalog.pg_database AS d WHERE d.datname = current_database();

-- What one session at a time may do: a row that it locks, or that says which session does it. Not advisory locks, which
-- any role can take: whoever has no right to this table can stop nothing. Names: 'fold', 'maintenance', 'loopback', and
-- 'index' with a vector table's oid.
CREATE TABLE pgmeaning.lock (
    name       text PRIMARY KEY,
    pid        int,  -- of the session that has it; null: nobody, or whoever has locked the row
    started_at timestamptz  -- when that session began: a number comes again
);

-- Until when a sidecar is awake, and until when one sleeps and wants a NOTIFY: see _show_state(). Sequences, since a
-- trigger can read them for less than a row, what is written is seen at once without a commit, and nobody without a
-- right to them can write there, as anybody could take an advisory lock.
CREATE UNLOGGED SEQUENCE pgmeaning.awake MINVALUE 0;
CREATE UNLOGGED SEQUENCE pgmeaning.asleep MINVALUE 0;

CREATE TABLE pgmeaning.sidecar (
    id           uuid PRIMARY KEY,
    host         text NOT NULL,
    pid          int NOT NULL,
    version      text NOT NULL,
    models       text[] NOT NULL DEFAULT '{}',  -- those it has loaded
    named        text[] NOT NULL DEFAULT '{}',  -- those it was started for
    problems     jsonb NOT NULL DEFAULT '{}',   -- model -> why it cannot run here
    rows_done    bigint NOT NULL DEFAULT 0,
    rates        jsonb NOT NULL DEFAULT '{}',  -- collection -> rows a second, of late
    started_at   timestamptz NOT NULL DEFAULT now(),
    heartbeat_at timestamptz NOT NULL DEFAULT now()
);

-- What was measured of searches, a row for each measure; see record_evaluation(). By name and without a reference: a
-- record outlives the generations that it compares.
CREATE TABLE pgmeaning.evaluation (
    id                    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    collection            text NOT NULL,  -- without a generation's number
    generation_name       text NOT NULL,
    other_generation_name text,           -- which it is compared with; null: with none
    queries               int NOT NULL,
    measure               text NOT NULL,
    value                 float8 NOT NULL,
    other_value           float8,
    difference_low        float8,         -- of value - other_value, with difference_high the 95 % interval
    difference_high       float8,
    definition            jsonb NOT NULL, -- how it was measured, and the marks of both generations
    evaluated_at          timestamptz NOT NULL DEFAULT now(),
    evaluated_by          name NOT NULL DEFAULT current_user
);
CREATE INDEX evaluation_generation ON pgmeaning.evaluation (generation_name, evaluated_at);

-- What is installed: one row. The tables' version is Alembic's; a hash of the migrations that made them tells a schema
-- of a version that was never released, whose number may be the same.
CREATE TABLE pgmeaning.installation (
    only_one        bool PRIMARY KEY DEFAULT true CHECK (only_one),
    migrations_hash text NOT NULL,
    functions_hash  text NOT NULL,
    version         text NOT NULL,
    catalog         jsonb NOT NULL DEFAULT '[]',  -- what it consists of, to be compared with what is there
    migrated_at     timestamptz NOT NULL DEFAULT now()
);

-- What nearest() and similar() find. A type: a TABLE (...) could not have an argument's name, key, among its columns.
CREATE TYPE pgmeaning.search_hit AS (
    key jsonb, chunk int, chunk_text text, distance float8, score float8, model text
);

-- What search() finds: also where it stood in the list by vectors and in the list by words.
CREATE TYPE pgmeaning.ranked_hit AS (
    key jsonb, chunk int, chunk_text text, distance float8, score float8, model text, vector_rank int, text_rank int
);

-- The last row of a page, behind which the next one begins.
CREATE TYPE pgmeaning.search_cursor AS (distance float8, key jsonb);

-- How a search was asked for, but for its query. condition: its filter, checked, and the path that its
-- names are looked up by; leave_out: keys not to be found.
CREATE TYPE pgmeaning.search_options AS (
    k bigint, condition text, mode text, candidates bigint, grouped bool, leave_out jsonb[],
    after pgmeaning.search_cursor, path text
);

-- The index that a vector table has, the one that is planned, and what that costs.
CREATE TYPE pgmeaning.index_plan AS (
    model text, present text, kind text, dimensions int, row_count bigint, bytes bigint, build_seconds float8,
    statement text, reason text,
    memory bigint,         -- bytes, so that the build keeps what it makes in memory
    usual_seconds float8   -- how long such a build takes elsewhere; build_seconds goes by earlier ones here
);
