-- The words of a collection, as posting lists beside its vectors: for each word and block of 16,000 rows, what BM25
-- adds to the score of each row that has it, as a vector with a place for each row. So PostgreSQL scores a whole block
-- by a few additions of vectors, in pgvector's C. Rows get numbers as they are written (words_id), which say where in a
-- block they are; a row never changes its words without a new number. A sidecar adds new rows to the lists in the
-- background; until then a search looks at them one by one.

-- The tables of posting lists know all of a collection's words, so only who sees all its rows reads them.
CREATE OR REPLACE FUNCTION pgmeaning._make_postings(c pgmeaning.collection, t pgmeaning.target) RETURNS void
LANGUAGE plpgsql SET client_min_messages = warning
AS $$
DECLARE
    postings text := format('pgmeaning_data.%I', 'postings_' || c.id);
BEGIN
    EXECUTE format('DROP TABLE IF EXISTS %s', postings);
    -- '' is no word: its rows tell how many rows a part has, and how many words these have. part: what was added to a
    -- block at once. average: the length that rows were compared with.
    EXECUTE format('CREATE TABLE %s (word text COLLATE "C" NOT NULL, block int NOT NULL, part int NOT NULL, '
                   'row_count int NOT NULL, word_count bigint NOT NULL, average float8, few sparsevec, many vector, '
                   'PRIMARY KEY (word, block, part))', postings);
    EXECUTE format('ALTER TABLE %s ALTER few SET STORAGE EXTERNAL, ALTER many SET STORAGE EXTERNAL', postings);
    EXECUTE format('CREATE INDEX ON %s (block)', postings);
    EXECUTE format('COMMENT ON TABLE %s IS %L', postings, 'Posting lists of the words of ' || c.source_name);
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', postings);
    EXECUTE format('CREATE POLICY who_sees_all ON %s FOR SELECT USING ((SELECT pgmeaning._reads_postings(%s)))',
                   postings, c.id);
    INSERT INTO pgmeaning.word_index AS x (collection_id, model, postings)
    VALUES (c.id, t.model, postings::regclass)
    ON CONFLICT ON CONSTRAINT word_index_pkey DO UPDATE
        SET postings = excluded.postings, indexed_to = 0, row_count = 0, waiting = 0, next_check = NULL;
    PERFORM pgmeaning._share_postings(c, t, postings::regclass);
    PERFORM pgmeaning._hand_over(c);
END
$$;

-- Lets those read the lists who may read the vectors, and nobody where the source has row security: also an estimate of
-- the planner's tells how many rows have a word, whatever a policy says. Others search without the lists.
CREATE OR REPLACE FUNCTION pgmeaning._share_postings(c pgmeaning.collection, t pgmeaning.target, postings regclass)
RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    change text;
BEGIN
    FOR change IN
        WITH readers AS (
            SELECT r.oid AS relation, a.grantee FROM pg_class AS r CROSS JOIN LATERAL aclexplode(r.relacl) AS a
            WHERE r.oid IN (t.vectors, postings) AND a.privilege_type = 'SELECT' AND a.grantee <> r.relowner
        ), wanted AS (
            SELECT v.grantee FROM readers AS v
            JOIN pg_class AS s ON s.oid = c.source AND NOT s.relrowsecurity WHERE v.relation = t.vectors
        ), had AS (
            SELECT p.grantee FROM readers AS p WHERE p.relation = postings
        )
        SELECT format(g.change, pgmeaning._relation_name(postings),
                      CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE g.grantee::regrole::text END)
        FROM (SELECT 'GRANT SELECT ON %s TO %s' AS change, w.grantee
              FROM (SELECT * FROM wanted EXCEPT SELECT * FROM had) AS w
              UNION ALL
              SELECT 'REVOKE SELECT ON %s FROM %s', h.grantee
              FROM (SELECT * FROM had EXCEPT SELECT * FROM wanted) AS h) AS g
    LOOP
        EXECUTE change;
    END LOOP;
END
$$;

CREATE OR REPLACE FUNCTION pgmeaning._empty_postings(collection_id int) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    postings text := (SELECT pgmeaning._relation_name(r.oid) FROM pgmeaning.word_index AS x
                      JOIN pg_class AS r ON r.oid = x.postings WHERE x.collection_id = $1);
BEGIN
    IF postings IS NOT NULL THEN
        EXECUTE format('DELETE FROM %s', postings);  -- searches with an older snapshot still see them
    END IF;
    UPDATE pgmeaning.word_index AS x SET indexed_to = 0, row_count = 0, waiting = 0, next_check = NULL
    WHERE x.collection_id = $1;
END
$$;

-- Whether the caller may read a collection's posting lists: it may read its vectors, and row security hides none of its
-- rows. Searches of others go by the words of the rows that they see, so that no score tells of other rows' words.
CREATE OR REPLACE FUNCTION pgmeaning._reads_postings(collection_id int) RETURNS bool
LANGUAGE sql STABLE
AS $$
    SELECT coalesce((SELECT has_table_privilege(t.vectors, 'SELECT') AND pgmeaning._unreadable_columns(c, current_user)
                            = '{}' AND NOT row_security_active(c.source::oid)
                     FROM pgmeaning.target AS t JOIN pgmeaning.collection AS c ON c.id = t.collection_id
                     JOIN pg_class AS r ON r.oid = c.source JOIN pg_class AS v ON v.oid = t.vectors
                     WHERE c.id = $1), false)
$$;

-- A row's length in words. ts_rank divides by it where it is told to, and costs a tenth of unnesting the words; any
-- word of the row will do.
CREATE OR REPLACE FUNCTION pgmeaning._length_sql(words text, word text) RETURNS text
LANGUAGE sql IMMUTABLE
AS $$
    SELECT format('round(ts_rank(''{1,1,1,1}'', %1$s, %2$s)::float8 '
                  '/ nullif(ts_rank(''{1,1,1,1}'', %1$s, %2$s, 2), 0)::float8)', words, word)
$$;

-- The first word of a tsvector as a query.
CREATE OR REPLACE FUNCTION pgmeaning._first_word_sql(words text) RETURNS text
LANGUAGE sql IMMUTABLE
AS $$
    SELECT format('('''''''' || replace(replace((tsvector_to_array(%s))[1], chr(92), chr(92) || chr(92)), '''''''', '
                  ''''''''''''') || '''''''')::tsquery', words)
$$;

-- Adds rows with numbers from first to last, which are of one block, to the lists. k1 = 1.2, b = 0.75. Literals are
-- float8, since numeric is many times slower.
CREATE OR REPLACE FUNCTION pgmeaning._add_postings(t pgmeaning.target, x pgmeaning.word_index, first bigint,
    last bigint) RETURNS bigint
LANGUAGE plpgsql SET work_mem = '64MB' SET enable_seqscan = off SET jit = off
AS $$
DECLARE
    postings text := pgmeaning._relation_name(x.postings);
    added    bigint;
    before   record;
BEGIN
    EXECUTE format('SELECT coalesce(sum(p.row_count), 0)::float8 AS rows, '
                   'coalesce(sum(p.word_count), 0)::float8 AS words FROM %s AS p WHERE p.word = ''''', postings)
    INTO before;
    EXECUTE format('
        WITH document AS MATERIALIZED (
            SELECT mod(v.words_id, 16000) + 1 AS place, v.words, coalesce(%1$s, 0) AS length
            FROM %2$s AS v CROSS JOIN LATERAL (SELECT %3$s AS word OFFSET 0) AS q
            WHERE v.words_id BETWEEN $1 AND $2 AND v.words IS NOT NULL
        ), total AS MATERIALIZED (
            SELECT count(*) AS rows, coalesce(sum(d.length), 0) AS words,
                   greatest(1, (sum(d.length) + $4) / (count(*) + $3)) AS average FROM document AS d
        ), list AS (
            SELECT w.lexeme AS word, count(*) AS rows, sum(w.tf)::bigint AS words,
                   concat(''{'', string_agg(concat(w.place, '':'', (w.tf * ''2.2''::float8 / (w.tf + w.norm))::real),
                                            '',''), ''}/16000'')::sparsevec AS few
            FROM (SELECT d.place, u.lexeme, greatest(1, cardinality(u.positions))::float8 AS tf,
                         ''1.2''::float8 * (''0.25''::float8 + ''0.75''::float8 * d.length / t.average) AS norm
                  FROM document AS d CROSS JOIN total AS t CROSS JOIN LATERAL unnest(d.words) AS u) AS w
            GROUP BY w.lexeme
        ), added AS (
            INSERT INTO %4$s (word, block, part, row_count, word_count, average, few, many)
            SELECT '''', $5, $6, t.rows, t.words, t.average, NULL, NULL FROM total AS t WHERE t.rows > 0
            UNION ALL
            SELECT l.word, $5, $6, l.rows, l.words, NULL, CASE WHEN l.rows <= 8000 THEN l.few END,
                   CASE WHEN l.rows > 8000 THEN l.few::vector END
            FROM list AS l
        )
        SELECT t.rows FROM total AS t',
        pgmeaning._length_sql('v.words', 'q.word'), pgmeaning._relation_name(t.vectors),
        pgmeaning._first_word_sql('v.words'), postings)
    INTO added USING first, last, before.rows, before.words, (first / 16000)::int, mod(first, 16000)::int;
    RETURN added;
END
$$;

-- Makes a block's lists anew, of the rows that are there still.
CREATE OR REPLACE FUNCTION pgmeaning._make_block(t pgmeaning.target, x pgmeaning.word_index, block int) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    EXECUTE format('DELETE FROM %s AS p WHERE p.block = $1', pgmeaning._relation_name(x.postings)) USING block;
    PERFORM pgmeaning._add_postings(t, x, block * 16000::bigint, least(x.indexed_to, block * 16000::bigint + 15999));
END
$$;

-- Waits until nobody can still commit a row with a number up to that of a row that is there: numbers are given out
-- before the commit, and a row that came later would never be found. Whoever writes holds a lock on the table. Returns
-- whether they ended in time.
CREATE OR REPLACE FUNCTION pgmeaning._writers_ended(vectors regclass) RETURNS bool
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
    writers text[] := ARRAY(SELECT l.virtualtransaction FROM pg_locks AS l
                            WHERE l.relation = vectors AND l.mode = 'RowExclusiveLock'
                              AND l.pid IS DISTINCT FROM pg_backend_pid()  -- a prepared transaction has none
                              AND l.database = (SELECT d.oid FROM pg_database AS d
                                                WHERE d.datname = current_database()));
BEGIN
    FOR attempt IN 1..50 LOOP
        writers := ARRAY(SELECT l.virtualtransaction FROM pg_locks AS l
                         WHERE l.relation = vectors AND l.mode = 'RowExclusiveLock'
                           AND l.virtualtransaction = ANY (writers));
        IF writers = '{}' THEN
            RETURN true;
        END IF;
        PERFORM pg_sleep(0.01);
    END LOOP;
    RETURN false;
END
$$;

-- Numbers rows that were written before there were numbers, some at a time; returns how many.
CREATE OR REPLACE FUNCTION pgmeaning._number_rows(t pgmeaning.target) RETURNS bigint
LANGUAGE plpgsql
AS $$
DECLARE
    numbered bigint;
BEGIN
    EXECUTE format('UPDATE %1$s AS v SET words_id = DEFAULT WHERE v.ctid = ANY (ARRAY('
                   'SELECT n.ctid FROM %1$s AS n WHERE n.words_id IS NULL LIMIT 1000 FOR UPDATE SKIP LOCKED))',
                   pgmeaning._relation_name(t.vectors));
    GET DIAGNOSTICS numbered = ROW_COUNT;
    RETURN numbered;
END
$$;

-- Whether rows that are written get numbers.
CREATE OR REPLACE FUNCTION pgmeaning._gives_numbers(vectors regclass) RETURNS bool
LANGUAGE sql STABLE
AS $$
    SELECT EXISTS (SELECT FROM pg_attribute AS a
                   WHERE a.attrelid = vectors AND a.attname = 'words_id' AND NOT a.attisdropped AND a.atthasdef)
$$;

-- How many rows the lists have, deleted ones included.
CREATE OR REPLACE FUNCTION pgmeaning._listed_rows(postings regclass) RETURNS bigint
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    listed bigint;
BEGIN
    EXECUTE format('SELECT coalesce(sum(p.row_count), 0) FROM %s AS p WHERE p.word = ''''',
                   pgmeaning._relation_name(postings)) INTO listed;
    RETURN listed;
END
$$;

-- Whether the lists are what was made: somebody may have emptied them, or numbers were given out again, by a sequence
-- that was restarted or came from a replica without its value. Then all rows get new numbers.
CREATE OR REPLACE FUNCTION pgmeaning._lists_hold(t pgmeaning.target, x pgmeaning.word_index) RETURNS bool
LANGUAGE plpgsql
AS $$
DECLARE
    vectors text := pgmeaning._relation_name(t.vectors);
    numbers text := pg_get_serial_sequence(vectors, 'words_id');
    given   bigint;
    highest bigint;
BEGIN
    EXECUTE format('SELECT CASE WHEN s.is_called THEN s.last_value ELSE s.last_value - 1 END FROM %s AS s', numbers)
    INTO given;
    EXECUTE format('SELECT greatest(max(v.words_id), $1) FROM %s AS v', vectors) INTO highest USING x.indexed_to;
    IF given >= highest THEN
        RETURN pgmeaning._listed_rows(x.postings) = x.row_count;
    END IF;
    PERFORM setval(numbers::regclass, highest);
    EXECUTE format('UPDATE %s SET words_id = NULL', vectors);
    RETURN false;
END
$$;

-- What a sidecar does now and then for a collection's words, one step at a time: adds new rows to the lists, once there
-- are enough, or makes one block anew that has lost a fifth of its rows, is in many parts, or was compared with an
-- average that is another by a tenth now. Returns how many rows it looked at; 0: there is nothing to do.
CREATE OR REPLACE FUNCTION pgmeaning._index_words(collection_id int, enough int DEFAULT 1000) RETURNS bigint
LANGUAGE plpgsql
AS $$
DECLARE
    x        pgmeaning.word_index;
    t        pgmeaning.target;
    c        pgmeaning.collection;
    fresh    record;
    numbered bigint;
    added    bigint := 0;
    block    int;
BEGIN
    SELECT w.* INTO x FROM pgmeaning.word_index AS w WHERE w.collection_id = $1 FOR UPDATE SKIP LOCKED;
    SELECT k.* INTO t FROM pgmeaning.target AS k WHERE k.collection_id = $1 AND k.model = x.model;
    IF NOT EXISTS (SELECT FROM pg_class AS r WHERE r.oid = x.postings)
       OR NOT pgmeaning._gives_numbers(t.vectors) THEN
        RETURN 0;  -- it is mended as all that is ours
    END IF;
    SELECT k.* INTO c FROM pgmeaning.collection AS k WHERE k.id = $1;
    PERFORM pgmeaning._share_postings(c, t, x.postings)
    FROM pg_class AS r WHERE r.oid = x.postings AND pg_has_role(r.relowner, 'USAGE');
    IF NOT pgmeaning._lists_hold(t, x) THEN
        PERFORM pgmeaning._empty_postings($1);
        SELECT w.* INTO x FROM pgmeaning.word_index AS w WHERE w.collection_id = $1;
    END IF;
    numbered := pgmeaning._number_rows(t);
    fresh := pgmeaning._fresh_words(t, x, enough);
    IF fresh.waiting >= enough AND pgmeaning._writers_ended(t.vectors) THEN
        added := pgmeaning._add_postings(t, x, fresh.first, fresh.last);
        x.indexed_to := fresh.last;
    END IF;
    block := pgmeaning._block_to_make(t, x);
    IF block IS NOT NULL THEN
        PERFORM pgmeaning._make_block(t, x, block);
        added := added + 1;
    END IF;
    PERFORM pgmeaning._record_words(t, x, added > 0);
    RETURN numbered + added;
END
$$;

-- The rows to add next, all of one block: how many wait (no more than are enough are counted), and their numbers.
CREATE OR REPLACE FUNCTION pgmeaning._fresh_words(t pgmeaning.target, x pgmeaning.word_index, enough int,
    OUT waiting bigint, OUT first bigint, OUT last bigint)
LANGUAGE plpgsql
AS $$
BEGIN
    EXECUTE format('SELECT (SELECT count(*) FROM (SELECT FROM %1$s AS v WHERE v.words_id > $1 LIMIT $2) AS w), '
                   'min(v.words_id), max(v.words_id) FROM %1$s AS v WHERE v.words_id > $1',
                   pgmeaning._relation_name(t.vectors))
    INTO waiting, first, last USING x.indexed_to, enough;
    last := least(last, first / 16000 * 16000 + 15999);
END
$$;

-- The block that had best be made anew, if any. Blocks are looked at one after the other, and only if rows were deleted
-- since all of them were looked at.
CREATE OR REPLACE FUNCTION pgmeaning._block_to_make(t pgmeaning.target, x pgmeaning.word_index) RETURNS int
LANGUAGE plpgsql
AS $$
DECLARE
    postings text := pgmeaning._relation_name(x.postings);
    deleted  bigint := pg_stat_get_tuples_deleted(t.vectors);
    number   int;
    listed   bigint;
    present  bigint;
BEGIN
    EXECUTE format('
        SELECT p.block FROM %s AS p, (SELECT sum(a.word_count) / nullif(sum(a.row_count), 0) AS average
                                      FROM %1$s AS a WHERE a.word = '''') AS now
        WHERE p.word = '''' GROUP BY p.block, now.average
        HAVING count(*) > 8 OR max(p.average) > 1.1 * greatest(1, now.average)
            OR min(p.average) < greatest(1, now.average) / 1.1
        ORDER BY p.block LIMIT 1', postings) INTO number;
    IF number IS NOT NULL OR x.next_check IS NULL AND x.checked_deletes = deleted THEN
        RETURN number;
    END IF;
    EXECUTE format('SELECT p.block, sum(p.row_count) FROM %s AS p WHERE p.word = '''' AND p.block >= $1 '
                   'GROUP BY p.block ORDER BY p.block LIMIT 1', postings)
    INTO number, listed USING coalesce(x.next_check, 0);
    UPDATE pgmeaning.word_index AS w SET next_check = number + 1,
        checked_deletes = CASE WHEN x.next_check IS NULL THEN deleted ELSE w.checked_deletes END
    WHERE w.collection_id = x.collection_id AND w.model = x.model;
    EXECUTE format('SELECT count(*) FROM %s AS v WHERE v.words_id BETWEEN $1 AND $2',
                   pgmeaning._relation_name(t.vectors))
    INTO present USING number * 16000::bigint, least(x.indexed_to, number * 16000::bigint + 15999);
    RETURN CASE WHEN present < 0.8 * listed THEN number END;
END
$$;

-- What status and search go by.
CREATE OR REPLACE FUNCTION pgmeaning._record_words(t pgmeaning.target, x pgmeaning.word_index, changed bool)
RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    unlisted bigint;
BEGIN
    EXECUTE format('SELECT count(*) FROM %s AS v WHERE v.words_id > $1 OR v.words_id IS NULL',
                   pgmeaning._relation_name(t.vectors)) INTO unlisted USING x.indexed_to;
    UPDATE pgmeaning.word_index AS w
    SET indexed_to = x.indexed_to, row_count = pgmeaning._listed_rows(x.postings), waiting = unlisted,
        indexed_at = CASE WHEN changed THEN clock_timestamp() ELSE w.indexed_at END, problem = NULL
    WHERE w.collection_id = x.collection_id AND w.model = x.model
      AND (changed OR w.waiting <> unlisted OR w.problem IS NOT NULL);
END
$$;
