-- A second model judges (query, document) pairs, in a sidecar: asked for as a query's vector is. And what was embedded
-- of a row, as the one text that everybody goes by.

-- The reranker of that name; null: the database's default.
CREATE OR REPLACE FUNCTION pgmeaning._reranker(wanted text, asker name DEFAULT current_user) RETURNS text
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    found_name text := (SELECT m.name FROM pgmeaning.model AS m WHERE m.kind = 'reranker'
                        AND CASE WHEN wanted IS NULL THEN m.status = 'default' ELSE m.name = wanted END);
BEGIN
    IF (SELECT m.status FROM pgmeaning.model AS m WHERE m.name = found_name) = 'retired' THEN
        PERFORM pgmeaning._refuse_retired(found_name);
    ELSIF found_name IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'PM005',
            MESSAGE = CASE WHEN wanted IS NULL THEN 'this database has no default reranker'
                           ELSE format('there is no reranker %L', wanted) END,
            DETAIL = 'Rerankers: ' || coalesce((SELECT string_agg(m.name, ', ' ORDER BY m.name)
                                                FROM pgmeaning.model AS m
                                                WHERE m.kind = 'reranker' AND m.status <> 'retired'), 'none') || '.',
            HINT = 'pgmeaning.models lists all models; "pgmeaning model default NAME" sets the default.';
    END IF;
    PERFORM pgmeaning._check_served(found_name, asker);
    RETURN found_name;
END
$$;

-- Documents in the order of their scores, 0..1; index is a document's place in the array, from 1. A null one is empty.
CREATE OR REPLACE FUNCTION pgmeaning.rerank(query text, documents text[], model text DEFAULT NULL,
    timeout interval DEFAULT '30 seconds')
RETURNS TABLE (index int, score float8)
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    judge    text := pgmeaning._reranker(rerank.model);
    patience interval := pgmeaning._patience(timeout, '30 seconds');
    asked    record;
BEGIN
    IF query IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014', MESSAGE = 'the query is NULL', HINT = 'Pass a text.';
    ELSIF coalesce(cardinality(documents), 0) = 0 THEN
        RETURN;
    END IF;
    -- Longer than any reranker reads.
    asked := pgmeaning._ask_loopback(judge, ARRAY[query], true, patience,
        ARRAY(SELECT left(coalesce(d.document, ''), 100000)
              FROM unnest(documents) WITH ORDINALITY AS d (document, place) ORDER BY d.place));
    IF asked.problem IS NOT NULL THEN
        PERFORM pgmeaning._refuse_on_standby('this standby cannot ask the primary to rerank', asked.problem,
            'rerank on the primary, or in your application: pgmeaning.rerank() in Python.');
        RAISE EXCEPTION USING ERRCODE = 'PM009',
            MESSAGE = 'this database has no dblink loopback to ask a reranker through', DETAIL = asked.problem,
            HINT = 'Let a superuser CREATE EXTENSION dblink and run "pgmeaning migrate"; '
                   'or rerank in your application, with pgmeaning.rerank() in Python.';
    ELSIF asked.replies IS NULL THEN
        PERFORM pgmeaning._no_answer(judge, patience);
    END IF;
    RETURN QUERY SELECT r.place::int, r.score
                 FROM unnest((asked.replies[1])::float8[]) WITH ORDINALITY AS r (score, place)
                 ORDER BY r.score DESC, r.place;
END
$$;
COMMENT ON FUNCTION pgmeaning.rerank IS 'Documents in the order of a reranker''s scores, the best match first.';

-- What was embedded of a source row, as text: its template filled in, or its columns joined by blank lines.
CREATE OR REPLACE FUNCTION pgmeaning._text_expression(c pgmeaning.collection, alias text) RETURNS text
LANGUAGE sql STABLE
AS $$
    SELECT CASE WHEN c.columns = '{}' THEN '''''' WHEN c.template IS NULL
        THEN (SELECT format('pg_catalog.concat_ws(E''\n\n'', %s)',
                            string_agg(pgmeaning._column_text(alias, c.source, col), ', ' ORDER BY i))
              FROM unnest(c.columns) WITH ORDINALITY AS u (col, i))
        ELSE (SELECT format('pg_catalog.concat(%s)',
                            string_agg(CASE WHEN part ->> 1 IS NULL THEN quote_literal(part ->> 0)
                         ELSE concat(quote_literal(part ->> 0), ', ',
                                     pgmeaning._column_text(alias, c.source, (part ->> 1)::name)) END, ', ' ORDER BY i))
              FROM jsonb_array_elements(pgmeaning._template_parts(c.template)) WITH ORDINALITY AS u (part, i)) END
$$;

-- The words of a source row, as whoever reads it finds them; whose vector is not of several chunks brings them along.
CREATE OR REPLACE FUNCTION pgmeaning._words_sql(c pgmeaning.collection, alias text) RETURNS text
LANGUAGE sql STABLE
AS $$
    SELECT CASE WHEN c.language IS NULL THEN 'NULL::tsvector'
                ELSE format('pg_catalog.to_tsvector(%L, pg_catalog."left"(%s, 200000))', c.language,
                            pgmeaning._text_expression(c, alias)) END
$$;

-- The texts of what was found, for the reranker to read: a chunk's own, or else the row's.
CREATE OR REPLACE FUNCTION pgmeaning._texts(c pgmeaning.collection, keys jsonb[], chunk_texts text[]) RETURNS text[]
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    texts text[];
BEGIN
    EXECUTE format('SELECT array_agg(coalesce(h.chunk_text, %s) ORDER BY h.place) '
        'FROM unnest($1, $2) WITH ORDINALITY AS h (key, chunk_text, place) '
        'CROSS JOIN LATERAL jsonb_to_record(h.key) AS k (%s) LEFT JOIN %s AS s ON %s',
        pgmeaning._text_expression(c, 's'), pgmeaning._key_record(c.key_columns, c.key_types),
        pgmeaning._relation_name(c.source),
        pgmeaning._key_match('s', c.key_columns, 'k', c.key_columns, c.key_types))
    INTO texts USING keys, chunk_texts;
    RETURN texts;
END
$$;

-- The source rows of what was found, in one statement with the search, for who does not know their type: each column's
-- name, type (below a domain, as drivers are told) and text in its type's output format; and the text that was
-- embedded, or the chunk's, if the caller may read it. wanted: some columns; null: all.
CREATE OR REPLACE FUNCTION pgmeaning._rows(collection text, keys jsonb[], chunk_texts text[], wanted text[])
RETURNS TABLE (place bigint, names text[], types oid[], contents text[], embedded_text text)
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    c        pgmeaning.collection := pgmeaning._collection(collection);
    readable bool := (SELECT coalesce(bool_and(has_column_privilege(c.source, u.col, 'SELECT')), true)
                      FROM unnest(c.columns) AS u (col));
    texts    text;
BEGIN
    wanted := CASE WHEN wanted IS NULL THEN pgmeaning._column_names(c.source)
                   ELSE pgmeaning._check_columns(c.source, wanted) END;
    types := ARRAY(SELECT pgmeaning._base_type(a.atttypid) FROM unnest(wanted) WITH ORDINALITY AS u (col, i)
                   JOIN pg_attribute AS a ON a.attrelid = c.source AND a.attname = u.col ORDER BY u.i);
    -- By format, as a cast writes a bool and a char otherwise than their output functions do.
    texts := (SELECT string_agg(format('CASE WHEN pg_catalog.num_nonnulls(s.%1$I) > 0 '
                                       'THEN pg_catalog.format(''%%s'', s.%1$I) END', u.col), ', ' ORDER BY u.i)
              FROM unnest(wanted) WITH ORDINALITY AS u (col, i));
    RETURN QUERY EXECUTE format('SELECT h.place, $3, $4, ARRAY[%s]::text[], coalesce(h.chunk_text, %s) '
        'FROM unnest($1, $2) WITH ORDINALITY AS h (key, chunk_text, place) '
        'CROSS JOIN LATERAL jsonb_to_record(h.key) AS k (%s) JOIN %s AS s ON %s',
        texts, CASE WHEN readable THEN pgmeaning._text_expression(c, 's') ELSE 'NULL' END,
        pgmeaning._key_record(c.key_columns, c.key_types), pgmeaning._relation_name(c.source),
        pgmeaning._key_match('s', c.key_columns, 'k', c.key_columns, c.key_types))
    USING keys, chunk_texts, wanted, types;
END
$$;
