-- Indexes on vector tables, questions to rerankers, full-text search.

-- What is wanted of a vector table's index, and what was measured of the one there is. No row: the default, nothing measured.
CREATE TABLE pgmeaning.vector_index (
    collection_id     int NOT NULL,
    model             text NOT NULL,
    wanted            text NOT NULL DEFAULT 'auto' CHECK (wanted IN ('auto', 'none', 'signature', 'prefix', 'direct')),
    wanted_dimensions int,     -- of a prefix; null: as planned
    test_requested    bool NOT NULL DEFAULT false,
    problem           text,    -- why the last build or test failed
    built_at          timestamptz,
    build_seconds     float8,
    kind              text,    -- what was tested: an index's kind, or 'scan', by signature without an index
    tested_at         timestamptz,
    tested_rows       bigint,
    sample            int,
    target            float8,
    recall            float8,
    candidates        int,     -- for k = 10
    milliseconds      float8,
    milliseconds_95   float8,
    exact_milliseconds float8,
    PRIMARY KEY (collection_id, model),
    FOREIGN KEY (collection_id, model) REFERENCES pgmeaning.target ON DELETE CASCADE
);

-- A question to a reranker has documents, and its reply stands here until it is fetched.
ALTER TABLE pgmeaning.request ADD COLUMN documents text[], ADD COLUMN reply text;

-- A text search configuration's name: the vector table has a column of words, for hybrid search. Null: it has none.
ALTER TABLE pgmeaning.collection ADD COLUMN language text;

-- What search() returns.
CREATE TYPE pgmeaning.ranked AS (key jsonb, chunk int, chunk_text text, distance float8, score float8, model text, vector_rank int, text_rank int);
