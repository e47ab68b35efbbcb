-- The registry of models and releases.

-- Refuses whoever may not change the models, with an error that says more than one from their table.
CREATE OR REPLACE FUNCTION pgmeaning._check_model_manager(model text) RETURNS void
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    IF NOT has_table_privilege('pgmeaning.model', 'UPDATE') THEN
        RAISE EXCEPTION USING ERRCODE = 'PM011',
            MESSAGE = format('role %I may not manage model %L', current_user, model),
            DETAIL = 'Models belong to the role that owns the schema pgmeaning.',
            HINT = (SELECT format('Call this as %I.', pg_get_userbyid(n.nspowner)) FROM pg_namespace AS n
                    WHERE n.nspname = 'pgmeaning');
    END IF;
END
$$;

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

-- A model is immutable once a vector bears its name: a changed one would mix vectors that cannot be compared.
CREATE OR REPLACE FUNCTION pgmeaning._guard_model() RETURNS trigger
LANGUAGE plpgsql
AS $$
DECLARE
    free constant text[] := '{status,min_dimensions,reranker,added_at,allowed}';  -- what changes no vector
BEGIN
    IF EXISTS (SELECT FROM pgmeaning.target AS t WHERE t.model = OLD.name)
       AND (TG_OP = 'DELETE' OR to_jsonb(NEW) - free <> to_jsonb(OLD) - free) THEN
        RAISE EXCEPTION USING ERRCODE = 'PM006',
            MESSAGE = format('model %L cannot be changed: there are vectors of it', OLD.name),
            DETAIL = (SELECT 'Collections: ' || string_agg(DISTINCT c.name, ', ') || '.' FROM pgmeaning.target AS t
                      JOIN pgmeaning.collection AS c ON c.id = t.collection_id WHERE t.model = OLD.name),
            HINT = 'Add it under another name, and move the collections to it.';
    END IF;
    IF TG_OP = 'UPDATE' AND NEW.fingerprint <> OLD.fingerprint THEN
        DELETE FROM pgmeaning.query_cache WHERE model = OLD.name;
    END IF;
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
    WHERE m.fingerprint <> excluded.fingerprint
      AND NOT EXISTS (SELECT FROM pgmeaning.target AS t WHERE t.model = m.name);
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

CREATE OR REPLACE FUNCTION pgmeaning._register_releases(releases jsonb) RETURNS void
LANGUAGE sql
AS $$
    INSERT INTO pgmeaning.release (name, embedder, reranker, dimensions, current)
    SELECT r.name, r.embedder, r.reranker, r.dimensions,
           r.current AND NOT EXISTS (SELECT FROM pgmeaning.release WHERE current)
    FROM jsonb_populate_recordset(NULL::pgmeaning.release, releases) AS r
    ON CONFLICT (name) DO NOTHING
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
            HINT = 'pgmeaning.models shows which are supported.';
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

CREATE OR REPLACE FUNCTION pgmeaning.deprecate_model(name text) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM pgmeaning._check_model_manager(deprecate_model.name);
    IF EXISTS (SELECT FROM pgmeaning.model AS m WHERE m.name = deprecate_model.name AND m.status = 'default') THEN
        RAISE EXCEPTION USING ERRCODE = 'PM006',
            MESSAGE = format('model %L is the default and cannot be deprecated', deprecate_model.name),
            HINT = 'Make another the default first: pgmeaning.set_default_model(...).';
    END IF;
    UPDATE pgmeaning.model AS m SET status = 'deprecated' WHERE m.name = deprecate_model.name;
    IF NOT FOUND THEN
        PERFORM pgmeaning._embedder(coalesce(deprecate_model.name, ''));
    END IF;
END
$$;
COMMENT ON FUNCTION pgmeaning.deprecate_model IS 'Serves a model as before, but refuses it for new collections.';

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
