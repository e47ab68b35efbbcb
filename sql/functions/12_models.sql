-- Models that are on their way out: what takes their place, and who is told.

-- What takes the place of a model: the one that was named when it was deprecated, if that is still served to new
-- collections, else the default of its kind.
CREATE OR REPLACE FUNCTION pgmeaning._replacement(model text) RETURNS text
LANGUAGE sql STABLE
AS $$
    SELECT n.name
    FROM pgmeaning.model AS m
    JOIN pgmeaning.model AS n ON n.kind = m.kind AND n.name <> m.name
        AND (n.status = 'default' OR n.status = 'supported' AND n.name = m.replacement)
    WHERE m.name = $1
    ORDER BY n.name = m.replacement DESC NULLS LAST LIMIT 1
$$;

-- A word of a command line, quoted for a shell if it must be.
CREATE OR REPLACE FUNCTION pgmeaning._shell_word(word text) RETURNS text
LANGUAGE sql IMMUTABLE
AS $$
    SELECT CASE WHEN word ~ '^[A-Za-z0-9_./:@%+-]+$' THEN word
                ELSE '''' || replace(word, '''', '''\''''') || '''' END
$$;

-- The command that moves a collection from one model to the one that takes its place; null: there is none.
CREATE OR REPLACE FUNCTION pgmeaning._swap_command(collection text, model text) RETURNS text
LANGUAGE sql STABLE
AS $$
    SELECT 'pgmeaning swap start ' || pgmeaning._shell_word($1) || ' --model '
           || pgmeaning._shell_word(pgmeaning._replacement($2))
$$;

-- What is to be said of a collection whose model is on its way out.
CREATE OR REPLACE FUNCTION pgmeaning._model_warning(collection text, model text) RETURNS text
LANGUAGE sql STABLE
AS $$
    SELECT CASE m.status WHEN 'deprecated' THEN format('model %s is deprecated', m.name)
                         ELSE format('model %s is retired: no rows and no queries are embedded', m.name) END
           || coalesce(', its replacement is ' || pgmeaning._replacement(m.name) || ': '
                       || pgmeaning._swap_command($1, m.name), '')
    FROM pgmeaning.model AS m WHERE m.name = $2 AND m.status IN ('deprecated', 'retired')
$$;

-- Refuses a model that is served no more, and says what to do.
CREATE OR REPLACE FUNCTION pgmeaning._refuse_retired(model text) RETURNS void
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    replacement text := pgmeaning._replacement(model);
    collection  text := (SELECT min(c.name) FROM pgmeaning.collection AS c WHERE c.model = $1);
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'PM006', MESSAGE = format('model %L is retired and no longer served', model),
        DETAIL = coalesce('Its replacement is ' || quote_literal(replacement) || '.', 'No model replaces it.'),
        HINT = CASE WHEN replacement IS NULL THEN 'pgmeaning.models shows which are served.'
                    WHEN collection IS NULL THEN format('Use %L.', replacement)
                    ELSE 'Move what uses it: ' || pgmeaning._swap_command(collection, model) || '.' END
               || format(' Or have it served again: pgmeaning.support_model(%L).', model);
END
$$;
