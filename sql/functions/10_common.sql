-- What the other files share: looking a collection up, and the SQL that depends on its key and columns.
-- Fragments use fixed aliases: s the source, v its vector table, k a key as typed columns.
-- Functions without a SET clause get their search_path from 90_access.sql, since it must hold pgvector's schema.

-- The rows that are locked by name; those of indexes come and go.
INSERT INTO pgmeaning.lock (name) VALUES ('fold'), ('maintenance'), ('loopback') ON CONFLICT (name) DO NOTHING;

-- Whether a session is still there. A role that may not see when it began goes by its number alone.
CREATE OR REPLACE FUNCTION pgmeaning._is_connected(pid int, started_at timestamptz) RETURNS bool
LANGUAGE sql VOLATILE
AS $$ SELECT EXISTS (SELECT FROM pg_stat_get_activity($1) AS a
                     WHERE a.backend_start = $2 OR a.backend_start IS NULL OR $2 IS NULL) $$;

-- Gives this session a lock by name until it lets it go or ends, across transactions: false while another one has it.
-- For what cannot run within a transaction. It does not wait for who is taking it right now.
CREATE OR REPLACE FUNCTION pgmeaning._try_lock(lock_name text) RETURNS bool
LANGUAGE plpgsql VOLATILE SET lock_timeout = '100ms'
AS $$
BEGIN
    INSERT INTO pgmeaning.lock AS l (name, pid, started_at)
    SELECT lock_name, a.pid, a.backend_start FROM pg_stat_get_activity(pg_backend_pid()) AS a
    ON CONFLICT (name) DO UPDATE SET pid = excluded.pid, started_at = excluded.started_at
    WHERE l.pid IS NULL OR l.pid = excluded.pid OR NOT pgmeaning._is_connected(l.pid, l.started_at);
    RETURN FOUND;
EXCEPTION WHEN lock_not_available THEN
    RETURN false;
END
$$;

CREATE OR REPLACE FUNCTION pgmeaning._let_go(lock_name text) RETURNS void
LANGUAGE sql VOLATILE
AS $$ DELETE FROM pgmeaning.lock WHERE name = $1 AND pid = pg_backend_pid() $$;

-- What a sidecar shows to triggers, "awake" or "asleep": a sequence whose value is when that ends, in milliseconds
-- since 1970, and below them 20 bits that tell which sidecar. So a sidecar that dies is forgotten by itself.
CREATE OR REPLACE FUNCTION pgmeaning._state_value(seconds float8, sidecar uuid) RETURNS bigint
LANGUAGE sql VOLATILE
AS $$ SELECT ((date_part('epoch', clock_timestamp()) + $1) * 1000)::bigint * 1048576
             + (hashtextextended($2::text, 0) & 1048575) $$;

-- Shows a state for so long, unless another sidecar shows it; returns whether this one does. While one is awake none is
-- shown to be asleep: so triggers, which NOTIFY a sidecar that is, read one sequence.
CREATE OR REPLACE FUNCTION pgmeaning._show_state(state regclass, sidecar uuid, seconds float8) RETURNS bool
LANGUAGE sql VOLATILE
AS $$
    SELECT setval('pgmeaning.asleep', 0)
    WHERE $1 = 'pgmeaning.awake'::regclass AND pg_sequence_last_value('pgmeaning.asleep') > 0;
    SELECT CASE WHEN ($1 = 'pgmeaning.awake'::regclass
                      OR coalesce(pg_sequence_last_value('pgmeaning.awake'), 0) < s.own)
                     AND (s.shown < s.own OR s.shown & 1048575 = s.own & 1048575)
                THEN setval($1, pgmeaning._state_value($3, $2)) > 0 ELSE false END
    FROM (SELECT coalesce(pg_sequence_last_value($1), 0) AS shown, pgmeaning._state_value(0, $2) AS own) AS s
$$;

CREATE OR REPLACE FUNCTION pgmeaning._hide_state(state regclass, sidecar uuid) RETURNS void
LANGUAGE sql VOLATILE
AS $$ SELECT setval($1, 0) WHERE pg_sequence_last_value($1) & 1048575 = pgmeaning._state_value(0, $2) & 1048575 $$;

-- The role that owns the installation, and with it whatever is made.
CREATE OR REPLACE FUNCTION pgmeaning._owner() RETURNS name
LANGUAGE sql STABLE
AS $$ SELECT pg_get_userbyid(n.nspowner) FROM pg_namespace AS n WHERE n.nspname = 'pgmeaning' $$;

-- The role of the sidecars: in an installation with roles one of their own, else the owner.
CREATE OR REPLACE FUNCTION pgmeaning._sidecar_role() RETURNS name
LANGUAGE sql STABLE
AS $$ SELECT CASE WHEN pgmeaning._owner() = 'pgmeaning_admin' THEN 'pgmeaning_sidecar' ELSE pgmeaning._owner() END $$;

-- The role that reads sources, as far as the database knows: what a sidecar really logs in as, it says itself.
CREATE OR REPLACE FUNCTION pgmeaning._reader_role() RETURNS name
LANGUAGE sql STABLE
AS $$ SELECT CASE WHEN pgmeaning._owner() = 'pgmeaning_admin' THEN 'pgmeaning_reader' ELSE pgmeaning._owner() END $$;

-- A type's name, qualified unless it is the system's own: hence the path of its own.
CREATE OR REPLACE FUNCTION pgmeaning._type_name(type oid, modifier int) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$ SELECT format_type(type, modifier) $$;

CREATE OR REPLACE FUNCTION pgmeaning._relation_name(relation oid) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$ SELECT format('%I.%I', n.nspname, c.relname)
      FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = relation $$;

-- The name of the collection of which this is a generation: 'docs' of 'docs@2'; any other is itself.
CREATE OR REPLACE FUNCTION pgmeaning._base_name(name text) RETURNS text
LANGUAGE sql IMMUTABLE
AS $$ SELECT regexp_replace($1, '@[0-9]+$', '') $$;

CREATE OR REPLACE FUNCTION pgmeaning._column_names(relation regclass) RETURNS name[]
LANGUAGE sql STABLE
AS $$ SELECT array_agg(attname ORDER BY attnum) FROM pg_attribute
      WHERE attrelid = relation AND attnum > 0 AND NOT attisdropped $$;

-- The collection of that name, or an error that says what to do.
CREATE OR REPLACE FUNCTION pgmeaning._collection(wanted text) RETURNS pgmeaning.collection
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    found_row pgmeaning.collection;
BEGIN
    SELECT * INTO found_row FROM pgmeaning.collection AS c WHERE c.name = wanted;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'PM001',
            MESSAGE = format('there is no collection %s', coalesce(quote_literal(wanted), 'NULL')),
            DETAIL = 'Collections: ' || coalesce((SELECT string_agg(c.name, ', ' ORDER BY c.name)
                                                  FROM pgmeaning.collection AS c), 'none') || '.',
            HINT = 'pgmeaning.attach() makes one of a table.';
    END IF;
    IF NOT EXISTS (SELECT FROM pg_class WHERE oid = found_row.source) THEN
        RAISE EXCEPTION USING ERRCODE = 'PM010',
            MESSAGE = CASE WHEN pgmeaning._is_dropped(found_row.source)
                           THEN format('the source table of collection %L was dropped', wanted)
                           ELSE format('the source table of collection %L is hidden', wanted) END,
            DETAIL = pgmeaning._orphan_problem(found_row),
            HINT = format('Make %s again, and a running sidecar takes its vectors up; or call pgmeaning.detach(%L).',
                          found_row.source_name, wanted);
    END IF;
    RETURN found_row;
END
$$;

-- The model of that name (null: the database's default), if it may be used as an embedder.
CREATE OR REPLACE FUNCTION pgmeaning._embedder(wanted text) RETURNS pgmeaning.model
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    found_row pgmeaning.model;
BEGIN
    -- Not its options, which callers may not read: see 90_access.sql.
    SELECT m.name, m.kind, m.backend, m.status, m.location, m.revision, m.dimensions, m.min_dimensions, m.max_tokens,
           m.template, m.pooling, m.normalize, m.query_prompt, m.document_prompt, m.modalities, NULL, m.reranker,
           m.fingerprint, m.added_at, m.allowed, m.replacement
    INTO found_row FROM pgmeaning.model AS m
    WHERE m.kind = 'embedder' AND CASE WHEN wanted IS NULL THEN m.status = 'default' ELSE m.name = wanted END;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'PM005',
            MESSAGE = CASE WHEN wanted IS NULL THEN 'this database has no default embedding model'
                           ELSE format('there is no embedding model %L', wanted) END,
            DETAIL = 'Embedding models: ' || coalesce((SELECT string_agg(m.name, ', ' ORDER BY m.name)
                                                       FROM pgmeaning.model AS m
                                                       WHERE m.kind = 'embedder'), 'none') || '.',
            HINT = 'pgmeaning.models lists them all; "pgmeaning model default NAME" sets the default.';
    END IF;
    IF found_row.status = 'retired' THEN
        PERFORM pgmeaning._refuse_retired(found_row.name);
    END IF;
    RETURN found_row;
END
$$;

CREATE OR REPLACE FUNCTION pgmeaning._column_list(alias text, columns name[]) RETURNS text
LANGUAGE sql IMMUTABLE
AS $$ SELECT string_agg(format('%I.%I', alias, c), ', ' ORDER BY i) FROM unnest(columns) WITH ORDINALITY AS u (c, i) $$;

-- Typed columns for jsonb_to_record: "id" bigint, ...
CREATE OR REPLACE FUNCTION pgmeaning._key_record(columns name[], types text[]) RETURNS text
LANGUAGE sql IMMUTABLE
AS $$ SELECT string_agg(format('%I %s', c, t), ', ' ORDER BY i)
    FROM unnest(columns, types) WITH ORDINALITY AS u (c, t, i) $$;

-- The type below a domain, through domains over domains; any other type is itself.
CREATE OR REPLACE FUNCTION pgmeaning._base_type(type oid) RETURNS oid
LANGUAGE sql STABLE
AS $$
    WITH RECURSIVE step (oid, typtype, typbasetype) AS (
        SELECT t.oid, t.typtype, t.typbasetype FROM pg_type AS t WHERE t.oid = type
        UNION ALL
        SELECT t.oid, t.typtype, t.typbasetype FROM step AS s JOIN pg_type AS t ON t.oid = s.typbasetype
        WHERE s.typtype = 'd'
    )
    SELECT s.oid FROM step AS s WHERE s.typtype <> 'd'
$$;

-- How a key column's type is recorded: without a length, which may be altered, and without a domain, which may be
-- dropped together with the table.
CREATE OR REPLACE FUNCTION pgmeaning._key_type(type oid) RETURNS text
LANGUAGE sql STABLE
AS $$ SELECT pgmeaning._type_name(pgmeaning._base_type(type), -1) $$;

-- Whether a type is the system's own, or a domain over one, or an array of these: what becomes of its values is up to
-- no user, since only a superuser makes casts between such types.
CREATE OR REPLACE FUNCTION pgmeaning._is_builtin(type oid) RETURNS bool
LANGUAGE sql STABLE
AS $$
    SELECT coalesce(bool_and(t.oid < 16384), false)
    FROM pg_type AS t
    WHERE t.oid IN (pgmeaning._base_type(type), (SELECT pgmeaning._base_type(a.typelem) FROM pg_type AS a
                                                 WHERE a.oid = pgmeaning._base_type(type) AND a.typcategory = 'A'))
$$;

-- A value of a type that users make as text, as its output function writes it, which is the system's own or an
-- extension's: a cast may be anybody's function, and would run with the rights of whoever asks. Null becomes empty.
CREATE OR REPLACE FUNCTION pgmeaning._written(value text) RETURNS text
LANGUAGE sql IMMUTABLE
AS $$ SELECT format('pg_catalog.format(''%%s'', %s)', value) $$;

-- A column as text.
CREATE OR REPLACE FUNCTION pgmeaning._column_text(alias text, source regclass, col name) RETURNS text
LANGUAGE sql STABLE
AS $$
    SELECT CASE WHEN EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = source AND a.attname = col
                             AND NOT a.attisdropped AND pgmeaning._is_builtin(a.atttypid))
                THEN format('%s::text', v.value)
                ELSE format('CASE WHEN %s IS NOT NULL THEN %s END', v.value, pgmeaning._written(v.value)) END
    FROM (SELECT format('%I.%I', alias, col) AS value) AS v
$$;

-- A key column's value, not null, to be made jsonb, or a value of another type.
CREATE OR REPLACE FUNCTION pgmeaning._key_value(value text, type oid) RETURNS text
LANGUAGE sql STABLE
AS $$ SELECT CASE WHEN pgmeaning._is_builtin(type) THEN value ELSE pgmeaning._written(value) END $$;

-- jsonb of the key columns of an alias, under the source's names. jsonb_build_object() would use a type's cast to json.
CREATE OR REPLACE FUNCTION pgmeaning._key_json(alias text, columns name[], c pgmeaning.collection) RETURNS text
LANGUAGE sql STABLE
AS $$
    SELECT format('pg_catalog.jsonb_build_object(%s)', string_agg(format('%L, %s', u.name,
        pgmeaning._key_value(format('%I.%I', alias, u.col), to_regtype(u.type))), ', ' ORDER BY u.i))
    FROM unnest(columns, c.key_columns, c.key_types) WITH ORDINALITY AS u (col, name, type, i)
$$;

-- Why values of a type cannot be embedded, or be a key, or null: making text of them, or of text a key, could run a
-- user's code. An output function never does, but a cast may, and so may the check of a domain, when a value is made.
CREATE OR REPLACE FUNCTION pgmeaning._type_problem(type oid, as_key bool DEFAULT false) RETURNS text
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    t       pg_type;
    field   record;
    named   text := pgmeaning._type_name(type, -1);
    trouble text;
BEGIN
    SELECT k.* INTO t FROM pg_type AS k WHERE k.oid = pgmeaning._base_type(type);
    IF t.oid < 16384 THEN
        RETURN NULL;
    ELSIF t.typtype IN ('e', 'c') THEN
        SELECT pgmeaning._type_name(p.casttarget, -1) INTO trouble FROM pg_cast AS p
        WHERE p.castsource IN (t.oid, t.typarray) ORDER BY p.casttarget LIMIT 1;
        IF FOUND THEN
            RETURN format('type %s has a cast of its own, to %s', pgmeaning._type_name(t.oid, -1), trouble);
        END IF;
    END IF;
    IF t.typtype = 'e' OR t.typtype = 'b' AND EXISTS (
            SELECT FROM pg_depend AS d JOIN pg_extension AS e ON e.oid = d.refobjid
            WHERE d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e'
              AND d.refclassid = 'pg_extension'::regclass
              AND e.extname = ANY ('{citext,cube,hstore,intarray,isn,ltree,postgis,seg,vector}')) THEN
        RETURN NULL;
    END IF;
    FOR field IN
        SELECT t.typelem AS type WHERE t.typcategory = 'A' AND t.typelem <> 0
        UNION ALL
        SELECT a.atttypid FROM pg_attribute AS a WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0
          AND NOT a.attisdropped
    LOOP
        trouble := coalesce(pgmeaning._type_problem(field.type, as_key),
            CASE WHEN as_key AND field.type <> pgmeaning._base_type(field.type)
                 THEN format('type %s consists of a domain, %s', named, pgmeaning._type_name(field.type, -1)) END);
        IF trouble IS NOT NULL THEN
            RETURN trouble;
        END IF;
    END LOOP;
    RETURN CASE WHEN NOT FOUND THEN format('type %s is not one that pgmeaning knows', named) END;
END
$$;

-- Whether values of one type become values of the other by themselves, or may be assigned to it; anything becomes text.
-- Which value becomes which does not matter: the scan that follows finds rows whose vector is not theirs.
CREATE OR REPLACE FUNCTION pgmeaning._can_follow(old text, new text) RETURNS bool
LANGUAGE sql STABLE
AS $$
    SELECT old = new OR EXISTS (SELECT FROM pg_cast AS p WHERE p.castsource = to_regtype(old)
                                AND p.casttarget = to_regtype(new) AND p.castcontext IN ('i', 'a')
                                AND (p.castmethod <> 'f' OR p.castfunc < 16384))  -- not a user's function
        OR EXISTS (SELECT FROM pg_type AS t WHERE t.oid = to_regtype(new) AND t.typcategory = 'S')
$$;

-- A qualified comparison operator for a type: that of the default operator class, which the primary key uses and only a
-- superuser can create, and not just any operator of that name, which anybody can. The system's own types, with OIDs
-- below 16384, have the system's own operators; they come first, since every search asks.
CREATE OR REPLACE FUNCTION pgmeaning._operator(symbol text, type oid) RETURNS text
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    IF type < 16384 THEN
        RETURN format('OPERATOR(pg_catalog.%s)', symbol);
    END IF;
    RETURN (
    WITH base AS MATERIALIZED (SELECT pgmeaning._base_type(type) AS oid)  -- once, not for every operator class
    SELECT coalesce((
        SELECT format('OPERATOR(%I.%s)', n.nspname, o.oprname)
        FROM base
        JOIN pg_opclass AS c ON c.opcintype = base.oid AND c.opcdefault
        JOIN pg_am AS m ON m.oid = c.opcmethod AND m.amname = 'btree'
        JOIN pg_amop AS a ON a.amopfamily = c.opcfamily AND a.amoplefttype = c.opcintype
            AND a.amoprighttype = c.opcintype
                         AND a.amopstrategy = array_position('{<,<=,=,>=,>}'::text[], symbol)
        JOIN pg_operator AS o ON o.oid = a.amopopr
        JOIN pg_namespace AS n ON n.oid = o.oprnamespace), format('OPERATOR(pg_catalog.%s)', symbol)));
END
$$;

CREATE OR REPLACE FUNCTION pgmeaning._equals(type oid) RETURNS text
LANGUAGE sql STABLE
AS $$ SELECT pgmeaning._operator('=', type) $$;

-- 'a.x = b.y AND ...': rows of two aliases with the same key.
CREATE OR REPLACE FUNCTION pgmeaning._key_match(a text, a_columns name[], b text, b_columns name[], types text[])
RETURNS text
LANGUAGE sql STABLE
AS $$ SELECT string_agg(format('%I.%I %s %I.%I', a, ac, pgmeaning._equals(to_regtype(t)), b, bc), ' AND ' ORDER BY i)
      FROM unnest(a_columns, b_columns, types) WITH ORDINALITY AS u (ac, bc, t, i) $$;

-- Rows of an alias behind a key, which is the one row of a record, in the order of the source's primary key. Compared
-- as a whole, which suits an index best, where the operators of all columns have one name; else column by column.
CREATE OR REPLACE FUNCTION pgmeaning._behind(alias text, columns name[], c pgmeaning.collection, record text)
RETURNS text
LANGUAGE sql STABLE
AS $$
    WITH part AS (
        -- Two columns may have different collations: the source's, as it is now, counts.
        SELECT u.i, format('%I.%I', alias, u.col) || (
                   SELECT format(' COLLATE %I.%I', n.nspname, o.collname) FROM pg_attribute AS a
                   JOIN pg_collation AS o ON o.oid = a.attcollation JOIN pg_namespace AS n ON n.oid = o.collnamespace
                   WHERE a.attrelid = c.source AND a.attname = u.k AND NOT a.attisdropped
                   UNION ALL SELECT '' LIMIT 1) AS mine,
               format('(SELECT k.%I FROM %I AS k)', u.k, record) AS last,
               pgmeaning._operator('>', to_regtype(u.type)) AS after, pgmeaning._equals(to_regtype(u.type)) AS equals
        FROM unnest(c.key_columns, columns, c.key_types) WITH ORDINALITY AS u (k, col, type, i)
    )
    SELECT CASE WHEN count(DISTINCT p.after) = 1
        THEN format('(%s) %s (%s)', string_agg(p.mine, ', ' ORDER BY p.i), min(p.after),
                    string_agg(p.last, ', ' ORDER BY p.i))
        ELSE '(' || string_agg(concat_ws(' AND ',
                (SELECT string_agg(format('%s %s %s', b.mine, b.equals, b.last), ' AND ' ORDER BY b.i) FROM part AS b
                 WHERE b.i < p.i),
                format('%s %s %s', p.mine, p.after, p.last)), ' OR ' ORDER BY p.i) || ')' END
    FROM part AS p
$$;

-- A template cut into [literal, column] pairs; a last literal has a null column. Doubled braces are literal ones.
CREATE OR REPLACE FUNCTION pgmeaning._template_parts(template text) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE STRICT
AS $$
DECLARE
    parts   jsonb := '[]';
    literal text := '';
    rest    text := template;
    piece   text[];
BEGIN
    WHILE rest <> '' LOOP
        piece := regexp_match(rest, '^(?:([^{}]+)|({{|}})|{([^{}]+)})');
        IF piece IS NULL THEN
            RAISE EXCEPTION USING ERRCODE = 'PM004',
                MESSAGE = format('the template has a lone brace at %L', left(rest, 20)),
                HINT = 'Write {column} for a column, {{ and }} for a literal brace.';
        END IF;
        IF piece[3] IS NOT NULL THEN
            parts := parts || jsonb_build_array(jsonb_build_array(literal, piece[3]));
            literal := '';
            rest := substr(rest, length(piece[3]) + 3);
        ELSE
            literal := literal || coalesce(piece[1], left(piece[2], 1));
            rest := substr(rest, length(coalesce(piece[1], piece[2])) + 1);
        END IF;
    END LOOP;
    IF parts = '[]' THEN
        RAISE EXCEPTION USING ERRCODE = 'PM004', MESSAGE = 'the template names no column',
            DETAIL = format('It is %L.', template),
            HINT = 'Every row would get the same vector. Put a column''s name in braces: ''{title}''.';
    END IF;
    RETURN parts || jsonb_build_array(jsonb_build_array(literal, NULL));
END
$$;

-- What represents a column of images or videos in its row's hash: a hash for bytea, whose text may be too long for
-- jsonb; null for an empty list.
CREATE OR REPLACE FUNCTION pgmeaning._media_hash(alias text, source regclass, col name) RETURNS text
LANGUAGE sql STABLE
AS $$ SELECT format(
        CASE coalesce((SELECT atttypid::regtype::text FROM pg_attribute WHERE attrelid = source AND attname = col),
                      'text')
            WHEN 'bytea' THEN 'pg_catalog.encode(pg_catalog.sha256(%1$I.%2$I), ''hex'')'
            WHEN 'text[]' THEN 'nullif(pg_catalog.array_remove(%1$I.%2$I, NULL)::text, ''{}'')'
            WHEN 'bytea[]' THEN 'nullif(pg_catalog.array_remove(%1$I.%2$I, NULL)::text, ''{}'')'
            WHEN 'jsonb' THEN 'CASE WHEN pg_catalog.jsonb_path_exists(%1$I.%2$I, ''$[*] ? (@.type() != "null")'') '
                              'THEN %1$I.%2$I::text END'
            ELSE '%1$I.%2$I::text' END, alias, col) $$;

-- What represents a text in its row's hash: a hash where it is long, since jsonb holds at most 256 MB.
CREATE OR REPLACE FUNCTION pgmeaning._text_hash(content text) RETURNS text
LANGUAGE sql IMMUTABLE
AS $$ SELECT format(
        'CASE WHEN pg_catalog.octet_length(%1$s) <= 1000000 THEN %1$s '
        'ELSE pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(%1$s, ''UTF8'')), ''hex'') END', content) $$;

-- White space, Unicode's too, with the characters that have no width. No regular expression: those fail for columns
-- whose collation is not deterministic, and know no more than ASCII in a database of the locale C.
CREATE OR REPLACE FUNCTION pgmeaning._white_space() RETURNS text
LANGUAGE sql STABLE
AS $$
    SELECT E' \t\n\x0b\f\r' || coalesce(string_agg(chr(code), ''), '')
    FROM unnest('{133,160,5760,8192,8193,8194,8195,8196,8197,8198,8199,8200,8201,8202,8203,8232,8233,8239,8287,8288,'
                '12288,65279}'::int[]) AS code
    WHERE getdatabaseencoding() = 'UTF8'
$$;

-- A hash of all that is embedded of a source row; null when there is nothing to embed: no image, no video, and no text
-- but white space. What a template adds is no content. Of a row that is compared with one that has content it need not
-- be known, and costs as much as the hash.
CREATE OR REPLACE FUNCTION pgmeaning._content_hash(alias text, c pgmeaning.collection, may_be_blank bool DEFAULT true)
RETURNS text
LANGUAGE sql STABLE
AS $$ SELECT format(CASE WHEN may_be_blank
        THEN 'CASE WHEN pg_catalog.num_nonnulls(%1$s) > 0 '
             'THEN pg_catalog.sha256(pg_catalog.convert_to(pg_catalog.jsonb_build_array(%2$s)::text, ''UTF8'')) END'
        ELSE 'pg_catalog.sha256(pg_catalog.convert_to(pg_catalog.jsonb_build_array(%2$s)::text, ''UTF8''))' END,
        string_agg(content, ', ' ORDER BY place), string_agg(part, ', ' ORDER BY place))
      FROM (SELECT i AS place, pgmeaning._text_hash(t.content) AS part,
                   -- Nearly always the beginning tells, and a very long text cannot be trimmed.
                   format('coalesce(nullif(pg_catalog.ltrim(pg_catalog."left"(%1$s, 4096), %2$L), ''''), '
                          'nullif(pg_catalog.ltrim(%1$s, %2$L), ''''))', t.content, pgmeaning._white_space()) AS content
            FROM unnest(c.columns) WITH ORDINALITY AS u (col, i)
            CROSS JOIN LATERAL pgmeaning._column_text(alias, c.source, col) AS t (content)
            UNION ALL
            SELECT cardinality(c.columns) + i, m.part, m.part
            FROM unnest(ARRAY[c.image, c.video]) WITH ORDINALITY AS u (col, i)
            CROSS JOIN LATERAL pgmeaning._media_hash(alias, c.source, col) AS m (part)
            WHERE col IS NOT NULL) AS parts $$;

-- How a column of images or videos is read: bytea as it is, anything else as jsonb; what is too large, only to just
-- beyond the limit, so that it can be refused without being loaded.
CREATE OR REPLACE FUNCTION pgmeaning._media_content(alias text, source regclass, col name) RETURNS text
LANGUAGE sql STABLE
AS $$ SELECT format(
        CASE coalesce((SELECT atttypid::regtype::text FROM pg_attribute WHERE attrelid = source AND attname = col),
                      'text')
            WHEN 'bytea' THEN 'pg_catalog.substring(%1$I.%2$I, 1, bound.media_bytes)'
            WHEN 'text' THEN 'pg_catalog.to_jsonb(pg_catalog."left"(%1$I.%2$I, bound.media_characters))'
            WHEN 'character varying' THEN 'pg_catalog.to_jsonb(pg_catalog."left"(%1$I.%2$I, bound.media_characters))'
            ELSE 'pg_catalog.to_jsonb(%1$I.%2$I)' END, alias, col) $$;

-- All columns whose change changes the vector.
CREATE OR REPLACE FUNCTION pgmeaning._embedded_columns(c pgmeaning.collection) RETURNS name[]
LANGUAGE sql IMMUTABLE
AS $$ SELECT c.columns || array_remove(ARRAY[c.image, c.video], NULL) $$;

-- A condition that lets all rows of the source pass as long as it is the table that it was, with columns of the types
-- that they had, and raises an error else. For statements that name the table, and say how its columns are read: it is
-- evaluated before any row is looked at, and by then the statement holds a lock on whatever it names. It needs no
-- function of ours, since the reader may call none.
CREATE OR REPLACE FUNCTION pgmeaning._source_guard(c pgmeaning.collection) RETURNS text
LANGUAGE sql STABLE
AS $$
    SELECT format('(SELECT CASE WHEN pg_catalog.to_regclass(%L) = %s::oid '
        'AND (SELECT r.relkind IN (''r'', ''p'') FROM pg_catalog.pg_class AS r WHERE r.oid = %2$s) '
        'AND (SELECT pg_catalog.count(*) FROM pg_catalog.pg_attribute AS a WHERE a.attrelid = %2$s '
        'AND NOT a.attisdropped AND (a.attname, a.atttypid) IN (%3$s)) = %4$s '
        'THEN true ELSE %5$L::text::regclass IS NULL END)',
        pgmeaning._relation_name(c.source), c.source::oid::int8, columns.list, columns.number,
        '"the table is not as it was"')
    FROM (SELECT coalesce(string_agg(format('(%L, %s::oid)', a.attname, a.atttypid::int8), ', ' ORDER BY a.attnum)
                          FILTER (WHERE a.atttypid < 16384
                                  OR pgmeaning._type_problem(a.atttypid, u.type IS NOT NULL) IS NULL),
                          '(NULL, NULL::oid)') AS list, count(DISTINCT u.name) AS number
          FROM (SELECT k, type FROM unnest(c.key_columns, c.key_types) AS k (k, type)
                UNION ALL SELECT e, NULL FROM unnest(pgmeaning._embedded_columns(c)) AS e
                WHERE e <> ALL (c.key_columns)) AS u (name, type)
          LEFT JOIN pg_attribute AS a ON a.attrelid = c.source AND a.attname = u.name AND NOT a.attisdropped
              AND (u.type IS NULL OR pgmeaning._key_type(a.atttypid) = u.type)) AS columns
$$;

-- Wakes sleeping sidecars at commit. NOTIFY makes PREPARE TRANSACTION fail: where that is in use, sidecars poll faster.
CREATE OR REPLACE FUNCTION pgmeaning._wake() RETURNS void
LANGUAGE sql VOLATILE
AS $$ SELECT pg_notify('pgmeaning', '') WHERE current_setting('max_prepared_transactions') = '0' $$;
