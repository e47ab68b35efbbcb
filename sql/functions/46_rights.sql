-- Who may read what was embedded. Vectors, their words and chunks, and what is found by them, are the source's content:
-- whoever may not read that, by the rights on its columns or by row security, is not told it by these either.

CREATE OR REPLACE FUNCTION pgmeaning._quoted_list(names name[]) RETURNS text
LANGUAGE sql IMMUTABLE
AS $$
    SELECT coalesce(string_agg(quote_ident(n), ', ' ORDER BY i), '') FROM unnest(names) WITH ORDINALITY AS u (n, i)
$$;

-- The columns that a collection's vectors are made from (and their key) and that a role may not read. Nobody knows what
-- became of one that was renamed, so then it takes a grant on the whole table.
CREATE OR REPLACE FUNCTION pgmeaning._unreadable_columns(c pgmeaning.collection, role name) RETURNS name[]
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    IF has_table_privilege(role, c.source::oid, 'SELECT') THEN  -- the usual answer first, since every search asks
        RETURN '{}';
    END IF;
    RETURN ARRAY(SELECT w.name
                 FROM unnest(c.key_columns || pgmeaning._embedded_columns(c)) WITH ORDINALITY AS w (name, i)
                 LEFT JOIN pg_attribute AS a ON a.attrelid = c.source AND a.attname = w.name AND NOT a.attisdropped
                 WHERE coalesce(has_column_privilege(role, c.source::oid, a.attnum, 'SELECT'), false) IS FALSE
                 GROUP BY w.name ORDER BY min(w.i));
END
$$;

-- Refuses whoever may not read what was embedded: vectors, their words and what is found by them tell it, or much of
-- it. An error, as for the columns themselves, and not fewer rows, which would look like an empty table.
CREATE OR REPLACE FUNCTION pgmeaning._check_readable(c pgmeaning.collection) RETURNS void
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    missing name[] := pgmeaning._unreadable_columns(c, current_user);
    schema  name;
BEGIN
    SELECT n.nspname INTO schema FROM pg_class AS r JOIN pg_namespace AS n ON n.oid = r.relnamespace
    WHERE r.oid = c.source AND NOT has_schema_privilege(n.oid, 'USAGE');
    IF schema IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'PM011',
            MESSAGE = format('role %I may not use schema %I, whose table collection %L is of', current_user, schema,
                             c.name),
            HINT = format('GRANT USAGE ON SCHEMA %I TO %I', schema, current_user);
    ELSIF missing <> '{}' THEN
        RAISE EXCEPTION USING ERRCODE = 'PM011',
            MESSAGE = format('role %I may not read %s of %s, which collection %L is made from', current_user,
                             pgmeaning._quoted_list(missing), pgmeaning._relation_name(c.source), c.name),
            DETAIL = 'Vectors, and what is found by them, tell what these columns say.',
            HINT = format('GRANT SELECT%s ON %s TO %I',
                          CASE WHEN missing <@ pgmeaning._column_names(c.source)
                               THEN format(' (%s)', pgmeaning._quoted_list(missing)) ELSE '' END,
                          pgmeaning._relation_name(c.source), current_user);
    END IF;
END
$$;

-- Whether row security hides nothing of the source from the caller; an error if it may not read the columns.
CREATE OR REPLACE FUNCTION pgmeaning._sees_all_rows(c pgmeaning.collection) RETURNS bool
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    PERFORM pgmeaning._check_readable(c);
    RETURN NOT row_security_active(c.source::oid);
END
$$;

-- Vectors are of no use to a role that may not read what they are made from; it may be granted that later.
CREATE OR REPLACE FUNCTION pgmeaning._tell_useless_grant(c pgmeaning.collection, role name) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    missing text := pgmeaning._quoted_list(pgmeaning._unreadable_columns(c, role));
BEGIN
    IF missing <> '' THEN
        RAISE NOTICE USING
            MESSAGE = format('role %I can search collection %L once it may read %s', role, c.name, missing),
            HINT = format('GRANT SELECT (%s) ON %s TO %s', missing, pgmeaning._relation_name(c.source),
                          pgmeaning._grantee(role));
    END IF;
END
$$;

-- Whether the vectors of the row of a key (k) are made of its content as it is now. They are not while a change is
-- owed, and the row may be another's by then: a key can be given again. OFFSET 0 forces look-ups by key: a join might
-- hash every row of the source.
CREATE OR REPLACE FUNCTION pgmeaning._is_current(c pgmeaning.collection, t pgmeaning.target) RETURNS text
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    RETURN format('EXISTS (SELECT FROM (SELECT v.content_hash FROM %s AS v WHERE %s AND v.chunk = 0 OFFSET 0) AS v '
                  'JOIN (SELECT %s AS content_hash FROM %s AS s WHERE %s OFFSET 0) AS s USING (content_hash) OFFSET 0)',
        pgmeaning._relation_name(t.vectors),
        pgmeaning._key_match('v', c.vector_key_columns, 'k', c.key_columns, c.key_types),
        pgmeaning._content_hash('s', c, false), pgmeaning._relation_name(c.source),
        pgmeaning._key_match('s', c.key_columns, 'k', c.key_columns, c.key_types));
END
$$;

-- The same of several rows. Settings are the sidecars', since the hash is of text. What cannot be compared is taken for
-- changed: columns that are gone, a value that cannot be read.
CREATE OR REPLACE FUNCTION pgmeaning._up_to_date(c pgmeaning.collection, t pgmeaning.target, keys jsonb[])
RETURNS bool[]
LANGUAGE plpgsql STABLE SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD' SET IntervalStyle = 'postgres'
SET bytea_output = 'hex' SET extra_float_digits = '1' SET lc_monetary = 'C'
AS $$
DECLARE
    answer bool[];
BEGIN
    EXECUTE format('SELECT array_agg(%s ORDER BY u.place) FROM unnest($1) WITH ORDINALITY AS u (key, place) '
                   'CROSS JOIN LATERAL jsonb_to_record(u.key) AS k (%s)',
                   pgmeaning._is_current(c, t), pgmeaning._key_record(c.key_columns, c.key_types))
    INTO answer USING keys;
    RETURN answer;
EXCEPTION WHEN OTHERS THEN
    RETURN array_fill(false, ARRAY[cardinality(keys)]);
END
$$;

-- The texts of chunks that were found, null where the row's content is another by now. It costs the hashes of these
-- rows, and nothing where documents are not cut.
CREATE OR REPLACE FUNCTION pgmeaning._current_texts(c pgmeaning.collection, t pgmeaning.target, keys jsonb[],
    chunk_texts text[]) RETURNS text[]
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    current bool[];
BEGIN
    IF c.chunking IS NULL OR array_remove(chunk_texts, NULL) = '{}' THEN
        RETURN chunk_texts;
    END IF;
    current := pgmeaning._up_to_date(c, t, keys);
    RETURN ARRAY(SELECT CASE WHEN u.current THEN u.chunk_text END
                 FROM unnest(chunk_texts, current) WITH ORDINALITY AS u (chunk_text, current, place) ORDER BY u.place);
END
$$;

-- Whether the view may show every text of a chunk as it stands: where row security hides no row, no other's is shown.
CREATE OR REPLACE FUNCTION pgmeaning._shows_all_texts(collection_id int) RETURNS bool
LANGUAGE sql STABLE
AS $$
    SELECT coalesce((SELECT NOT row_security_active(c.source::oid)
                     FROM pgmeaning.collection AS c JOIN pg_class AS r ON r.oid = c.source WHERE c.id = $1), true)
$$;

-- For the view, which must not name the source: DROP TABLE of it would fail.
CREATE OR REPLACE FUNCTION pgmeaning._current_text(collection_id int, key jsonb, chunk_text text) RETURNS text
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    c pgmeaning.collection;
BEGIN
    SELECT * INTO c FROM pgmeaning.collection AS known WHERE known.id = collection_id;
    RETURN (pgmeaning._current_texts(c, pgmeaning._active_target(c), ARRAY[key], ARRAY[chunk_text]))[1];
END
$$;
