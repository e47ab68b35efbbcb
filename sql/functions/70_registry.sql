-- The registry of models and releases.

-- Refuses whoever may not change the registry, with an error that says more than one from its tables.
CREATE OR REPLACE FUNCTION pgmeaning._check_registry_manager(what text) RETURNS void
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    IF NOT has_table_privilege('pgmeaning.model', 'UPDATE') THEN
        RAISE EXCEPTION USING ERRCODE = 'PM011', MESSAGE = format('role %I may not %s', current_user, what),
            DETAIL = 'Models and releases belong to the role that owns the schema pgmeaning.',
            HINT = (SELECT format('Call this as %I.', pg_get_userbyid(n.nspowner)) FROM pg_namespace AS n
                    WHERE n.nspname = 'pgmeaning');
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION pgmeaning._check_model_manager(model text) RETURNS void
LANGUAGE sql STABLE
AS $$ SELECT pgmeaning._check_registry_manager(format('manage model %L', model)) $$;

-- Who decided what, and when. Who may not manage models cannot write here either.
CREATE OR REPLACE FUNCTION pgmeaning._log_decision(decision text, subject text, details jsonb) RETURNS void
LANGUAGE sql
AS $$ INSERT INTO pgmeaning.registry_log (decision, subject, details) VALUES ($1, $2, $3) $$;

-- Whether anybody may have a sidecar load a model, which takes up to gigabytes: it makes a collection's vectors, is a
-- default, was allowed, or a sidecar was started for it. Synthetic ones cost nothing, and who may allow one need not.
CREATE OR REPLACE FUNCTION pgmeaning._is_served(wanted text, asker name) RETURNS bool
LANGUAGE sql STABLE
AS $$
    SELECT EXISTS (SELECT FROM pgmeaning.model AS m
                   WHERE m.name = wanted AND (m.status = 'default' OR m.allowed OR m.backend = 'synthetic'))
        OR EXISTS (SELECT FROM pgmeaning.target AS t WHERE t.model = wanted)
        OR EXISTS (SELECT FROM pgmeaning.sidecars AS s WHERE s.alive AND wanted = ANY (s.named))
        OR has_table_privilege(asker, 'pgmeaning.model', 'UPDATE')
$$;

CREATE OR REPLACE FUNCTION pgmeaning._check_served(wanted text, asker name) RETURNS void
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    IF NOT pgmeaning._is_served(wanted, asker) THEN
        RAISE EXCEPTION USING ERRCODE = 'PM006', MESSAGE = format('model %L is not in use in this database', wanted),
            DETAIL = 'Sidecars load what collections use, the defaults, what was allowed, and what they were started '
                     'for: models take much memory.',
            HINT = format('Whoever manages models allows it: "pgmeaning model allow %s", or '
                          'SELECT pgmeaning.allow_model(%L).', wanted, wanted);
    END IF;
END
$$;

-- What would be wrong if a model changed: vectors of it, kept ones too, or a release that names it. Null: nothing.
CREATE OR REPLACE FUNCTION pgmeaning._used_by(model text) RETURNS text
LANGUAGE sql STABLE
AS $$
    SELECT nullif(concat_ws(' ',
        (SELECT 'Collections: ' || string_agg(DISTINCT c.name, ', ') || '.' FROM pgmeaning.target AS t
         JOIN pgmeaning.collection AS c ON c.id = t.collection_id WHERE t.model = $1),
        (SELECT 'Vectors that detach() kept: ' || string_agg(k.vectors::text, ', ') || '.'
         FROM pgmeaning.kept_vectors AS k JOIN pg_class AS r ON r.oid = k.vectors WHERE k.definition ->> 'model' = $1),
        (SELECT 'Releases: ' || string_agg(r.name, ', ') || '.' FROM pgmeaning.release AS r
         WHERE $1 IN (r.embedder, r.reranker) AND pgmeaning._is_used(r))), '')
$$;

-- A model is immutable once a vector bears its name: a changed one would mix vectors that cannot be compared. So is one
-- of a release that is followed: everybody on it has agreed on that one.
CREATE OR REPLACE FUNCTION pgmeaning._guard_model() RETURNS trigger
LANGUAGE plpgsql
AS $$
DECLARE
    used text;
BEGIN
    IF TG_OP = 'UPDATE' AND pgmeaning._unchangeable(NEW) = pgmeaning._unchangeable(OLD) THEN
        RETURN NEW;
    END IF;
    used := coalesce(pgmeaning._used_by(OLD.name),
                     (SELECT format('Sidecars that have loaded it: %s.', count(*)) FROM pgmeaning.sidecars AS s
                      WHERE s.alive AND OLD.name = ANY (s.models) HAVING count(*) > 0));
    IF used IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'PM006',
            MESSAGE = format('model %L cannot be changed: it is in use', OLD.name), DETAIL = used,
            HINT = 'Add it under another name, and move the collections to it. Nobody but sidecars: stop them first.';
    END IF;
    DELETE FROM pgmeaning.query_cache WHERE model = OLD.name;
    DELETE FROM pgmeaning.model_probe WHERE model = OLD.name;
    RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
END
$$;
CREATE OR REPLACE TRIGGER model_is_immutable BEFORE UPDATE OR DELETE ON pgmeaning.model
    FOR EACH ROW EXECUTE FUNCTION pgmeaning._guard_model();

-- Adds models, or brings those that no vector bears yet up to date; a status set in this database stays.
CREATE OR REPLACE FUNCTION pgmeaning._register_models(models jsonb) RETURNS void
LANGUAGE sql
AS $$
    INSERT INTO pgmeaning.model AS m (name, kind, backend, status, location, revision, dimensions, min_dimensions,
        max_tokens, template, pooling, normalize, query_prompt, document_prompt, modalities, options, reranker,
        fingerprint)
    SELECT r.name, r.kind, r.backend,
           CASE WHEN r.status = 'default'
                     AND EXISTS (SELECT FROM pgmeaning.model AS d WHERE d.kind = r.kind AND d.status = 'default')
                THEN 'supported' ELSE r.status END,
           r.location, r.revision, r.dimensions, r.min_dimensions, r.max_tokens, r.template, r.pooling,
           r.normalize, r.query_prompt, r.document_prompt, r.modalities, r.options, r.reranker, r.fingerprint
    FROM jsonb_populate_recordset(NULL::pgmeaning.model, models) AS r
    ON CONFLICT (name) DO UPDATE SET kind = excluded.kind, backend = excluded.backend, location = excluded.location,
        revision = excluded.revision, dimensions = excluded.dimensions, min_dimensions = excluded.min_dimensions,
        max_tokens = excluded.max_tokens, template = excluded.template, pooling = excluded.pooling,
        normalize = excluded.normalize, query_prompt = excluded.query_prompt,
        document_prompt = excluded.document_prompt, modalities = excluded.modalities,
        options = excluded.options, reranker = excluded.reranker, fingerprint = excluded.fingerprint
    WHERE m.fingerprint <> excluded.fingerprint AND pgmeaning._used_by(m.name) IS NULL;
    -- Changes no vector, so also where there are vectors of the model.
    UPDATE pgmeaning.model AS m SET reranker = r.reranker
    FROM jsonb_populate_recordset(NULL::pgmeaning.model, models) AS r
    WHERE m.name = r.name AND m.fingerprint = r.fingerprint AND m.reranker IS DISTINCT FROM r.reranker
$$;

-- One model of the user's own. The same again is no error; another of that name is, since its vectors would not
-- compare.
CREATE OR REPLACE FUNCTION pgmeaning._add_model(model jsonb) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM pgmeaning._check_model_manager(model ->> 'name');
    IF NOT EXISTS (SELECT FROM pgmeaning.model AS m WHERE m.name = model ->> 'name') THEN
        PERFORM pgmeaning._register_models(jsonb_build_array(model)),
                pgmeaning.allow_model(model ->> 'name');  -- it was added to be asked for
    END IF;
    IF NOT EXISTS (SELECT FROM pgmeaning.model AS m
                   WHERE m.name = model ->> 'name' AND m.kind = model ->> 'kind'
                     AND m.fingerprint = model ->> 'fingerprint') THEN
        RAISE EXCEPTION USING ERRCODE = 'PM006',
            MESSAGE = format('there is already another model %L', model ->> 'name'),
            DETAIL = 'Its fingerprint differs, so its vectors cannot be compared with those of the one to be added.',
            HINT = 'Add it under another name.';
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION pgmeaning._make_default(name text, kind text) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    m pgmeaning.model;
BEGIN
    SELECT * INTO m FROM pgmeaning.model AS known
    WHERE known.name = _make_default.name AND known.kind = coalesce(_make_default.kind, known.kind);
    IF NOT FOUND AND _make_default.kind = 'reranker' THEN
        PERFORM pgmeaning._reranker(coalesce(_make_default.name, ''));
    ELSIF NOT FOUND THEN
        PERFORM pgmeaning._embedder(coalesce(_make_default.name, ''));
    ELSIF m.status IN ('deprecated', 'retired') THEN
        RAISE EXCEPTION USING ERRCODE = 'PM006',
            MESSAGE = format('model %L is %s and cannot be the default', m.name, m.status),
            HINT = format('pgmeaning.models shows which are supported. This one is again after '
                          'pgmeaning.support_model(%L).', m.name);
    END IF;
    UPDATE pgmeaning.model SET status = 'supported'
    WHERE model.kind = m.kind AND status = 'default' AND model.name <> m.name;
    UPDATE pgmeaning.model SET status = 'default' WHERE model.name = m.name AND status <> 'default';
END
$$;

-- Makes an embedder the default of attach(), and the reranker that goes with it the default reranker: the one given
-- here, else the embedder's own, if it has one. The name of a reranker sets the default reranker only.
CREATE OR REPLACE FUNCTION pgmeaning.set_default_model(
    name text, reranker text DEFAULT NULL, keep_reranker bool DEFAULT false
) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    m         pgmeaning.model;
    companion text := reranker;
BEGIN
    PERFORM pgmeaning._check_model_manager(set_default_model.name);
    SELECT * INTO m FROM pgmeaning.model AS known WHERE known.name = set_default_model.name;
    IF reranker IS NOT NULL AND (m.kind = 'reranker' OR keep_reranker) THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014', MESSAGE = 'two answers to which reranker becomes the default',
            DETAIL = CASE WHEN m.kind = 'reranker' THEN format('%L is a reranker itself.', m.name)
                          ELSE format('reranker is %L, and keep_reranker is true.', reranker) END,
            HINT = 'Give one of them.';
    END IF;
    PERFORM pgmeaning._make_default(set_default_model.name, NULL);
    IF companion IS NULL AND NOT coalesce(keep_reranker, false) THEN
        SELECT known.name INTO companion FROM pgmeaning.model AS known
        WHERE known.name = m.reranker AND known.status IN ('default', 'supported');
    END IF;
    IF companion IS NOT NULL THEN
        PERFORM pgmeaning._make_default(companion, 'reranker');
    END IF;
END
$$;
COMMENT ON FUNCTION pgmeaning.set_default_model IS
    'Sets the default model of attach(), and the reranker that goes with it; or a default reranker alone.';

-- What takes the place of a model must do its work, for new collections too.
CREATE OR REPLACE FUNCTION pgmeaning._check_replacement(model text, replacement text) RETURNS void
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    problem text := (
        SELECT CASE WHEN n.name IS NULL THEN format('there is no model %L', $2)
                    WHEN n.name = m.name THEN 'a model cannot replace itself'
                    WHEN n.kind <> m.kind THEN format('%L is of kind %s, not %s', n.name, n.kind, m.kind)
                    WHEN n.status IN ('deprecated', 'retired') THEN format('%L is %s, too', n.name, n.status) END
        FROM pgmeaning.model AS m LEFT JOIN pgmeaning.model AS n ON n.name = $2 WHERE m.name = $1);
BEGIN
    IF replacement IS NOT NULL AND problem IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'PM006', MESSAGE = format('%L cannot replace %L', replacement, model),
            DETAIL = upper(left(problem, 1)) || substr(problem, 2) || '.',
            HINT = 'Leave it out, and the default model of that kind is the replacement. pgmeaning.models lists all.';
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION pgmeaning._withdraw(name text, status text, replacement text) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    known pgmeaning.model;
BEGIN
    PERFORM pgmeaning._check_model_manager(_withdraw.name);
    SELECT * INTO known FROM pgmeaning.model AS m WHERE m.name = _withdraw.name FOR UPDATE;
    IF NOT FOUND THEN
        PERFORM pgmeaning._embedder(coalesce(_withdraw.name, ''));
    ELSIF known.status = 'default' THEN
        RAISE EXCEPTION USING ERRCODE = 'PM006',
            MESSAGE = format('model %L is the default and cannot be %s', known.name, _withdraw.status),
            HINT = 'Make another the default first: pgmeaning.set_default_model(...).';
    END IF;
    PERFORM pgmeaning._check_replacement(known.name, _withdraw.replacement);
    UPDATE pgmeaning.model AS m
    SET status = _withdraw.status, replacement = coalesce(_withdraw.replacement, m.replacement)
    WHERE m.name = known.name;
    PERFORM pgmeaning._log_decision(_withdraw.status, known.name,
                                    jsonb_build_object('was', known.status, 'replacement', _withdraw.replacement));
END
$$;

CREATE OR REPLACE FUNCTION pgmeaning.deprecate_model(name text, replacement text DEFAULT NULL) RETURNS void
LANGUAGE sql
AS $$ SELECT pgmeaning._withdraw(name, 'deprecated', replacement) $$;
COMMENT ON FUNCTION pgmeaning.deprecate_model
    IS 'Serves a model as before, but refuses it for new collections. pgmeaning.status says what replaces it: the '
       'replacement, else the default.';

CREATE OR REPLACE FUNCTION pgmeaning.retire_model(name text, replacement text DEFAULT NULL) RETURNS void
LANGUAGE sql
AS $$ SELECT pgmeaning._withdraw(name, 'retired', replacement) $$;
COMMENT ON FUNCTION pgmeaning.retire_model
    IS 'Serves a model no more: its rows stay owed, and queries get an error that says what replaces it. Vectors that '
       'are there stay.';

CREATE OR REPLACE FUNCTION pgmeaning.support_model(name text) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM pgmeaning._check_model_manager(support_model.name);
    UPDATE pgmeaning.model AS m SET status = 'supported' WHERE m.name = support_model.name AND m.status <> 'default';
    IF FOUND THEN
        PERFORM pgmeaning._log_decision('supported', support_model.name, NULL);
    ELSIF NOT EXISTS (SELECT FROM pgmeaning.model AS m WHERE m.name = support_model.name) THEN
        PERFORM pgmeaning._embedder(coalesce(support_model.name, ''));
    END IF;
END
$$;
COMMENT ON FUNCTION pgmeaning.support_model IS 'Takes back that a model was deprecated or retired.';

CREATE OR REPLACE FUNCTION pgmeaning.allow_model(name text, allowed bool DEFAULT true) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM pgmeaning._check_model_manager(allow_model.name);
    UPDATE pgmeaning.model AS m SET allowed = coalesce(allow_model.allowed, true) WHERE m.name = allow_model.name;
    IF NOT FOUND THEN
        PERFORM pgmeaning._embedder(coalesce(allow_model.name, ''));
    END IF;
END
$$;
COMMENT ON FUNCTION pgmeaning.allow_model
    IS 'Lets everybody ask for a model that no collection uses; false: no longer.';
