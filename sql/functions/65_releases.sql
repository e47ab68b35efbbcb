-- Releases: which embedding model, which reranker and which dimensions a team has agreed on.

-- Whether a database goes by a release, or has vectors of its model: then its name means what it meant.
CREATE OR REPLACE FUNCTION pgmeaning._is_used(r pgmeaning.release) RETURNS bool
LANGUAGE sql STABLE
AS $$ SELECT r.current OR EXISTS (SELECT FROM pgmeaning.target AS t WHERE t.model = r.embedder) $$;

CREATE OR REPLACE FUNCTION pgmeaning._guard_release() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    -- A release is signed off once; which one is current may change.
    IF TG_OP = 'UPDATE' AND to_jsonb(NEW) - '{current,signed_off_by,signed_off_at}'::text[]
                            = to_jsonb(OLD) - '{current,signed_off_by,signed_off_at}'::text[]
       AND (OLD.signed_off_at IS NULL OR (NEW.signed_off_by, NEW.signed_off_at)
                                         IS NOT DISTINCT FROM (OLD.signed_off_by, OLD.signed_off_at)) THEN
        RETURN NEW;
    ELSIF pgmeaning._is_used(OLD) OR TG_OP = 'UPDATE' AND OLD.signed_off_at IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'PM006',
            MESSAGE = format('release %L cannot be %s', OLD.name,
                             CASE TG_OP WHEN 'DELETE' THEN 'deleted' ELSE 'changed' END),
            DETAIL = CASE WHEN OLD.current THEN 'This database follows it.'
                          WHEN OLD.signed_off_at IS NOT NULL THEN 'It was signed off.'
                          ELSE format('There are vectors of its model %L.', OLD.embedder) END,
            HINT = 'Make another under a new name: pgmeaning.create_release(...).';
    END IF;
    RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
END
$$;
CREATE OR REPLACE TRIGGER release_is_immutable BEFORE UPDATE OR DELETE ON pgmeaning.release
    FOR EACH ROW EXECUTE FUNCTION pgmeaning._guard_release();

-- TRUNCATE asks no row trigger, and with CASCADE it takes the collections along.
CREATE OR REPLACE FUNCTION pgmeaning._refuse_truncate() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'PM006', MESSAGE = format('pgmeaning.%I cannot be truncated', TG_TABLE_NAME),
        DETAIL = 'It says what made the vectors of this database.', HINT = 'DELETE takes what is not in use.';
END
$$;
CREATE OR REPLACE TRIGGER release_stays BEFORE TRUNCATE ON pgmeaning.release
    FOR EACH STATEMENT EXECUTE FUNCTION pgmeaning._refuse_truncate();
CREATE OR REPLACE TRIGGER model_stays BEFORE TRUNCATE ON pgmeaning.model
    FOR EACH STATEMENT EXECUTE FUNCTION pgmeaning._refuse_truncate();

CREATE OR REPLACE FUNCTION pgmeaning._register_releases(releases jsonb) RETURNS void
LANGUAGE sql
AS $$
    INSERT INTO pgmeaning.release (name, embedder, reranker, dimensions, current)
    SELECT r.name, r.embedder, r.reranker, r.dimensions,
           r.current AND NOT EXISTS (SELECT FROM pgmeaning.release WHERE current)
    FROM jsonb_populate_recordset(NULL::pgmeaning.release, releases) AS r
    ON CONFLICT (name) DO NOTHING
$$;

-- The release of that name.
CREATE OR REPLACE FUNCTION pgmeaning._release(wanted text) RETURNS pgmeaning.release
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    found_row pgmeaning.release;
BEGIN
    SELECT * INTO found_row FROM pgmeaning.release AS r WHERE r.name = wanted;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'PM005', MESSAGE = format('there is no release %L', wanted),
            DETAIL = format('Releases: %s.', coalesce((SELECT string_agg(r.name, ', ' ORDER BY r.name)
                                                       FROM pgmeaning.release AS r), 'none')),
            HINT = 'pgmeaning.create_release() makes one; "pgmeaning release use FILE" takes one from elsewhere.';
    END IF;
    RETURN found_row;
END
$$;

-- How long the vectors of a new collection are, if nobody says: as the release that is followed has it.
CREATE OR REPLACE FUNCTION pgmeaning._release_dimensions(model text) RETURNS int
LANGUAGE sql STABLE
AS $$ SELECT r.dimensions FROM pgmeaning.release AS r WHERE r.current AND r.embedder = $1 $$;

CREATE OR REPLACE FUNCTION pgmeaning.use_release(name text) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    wanted pgmeaning.release;
BEGIN
    PERFORM pgmeaning._check_registry_manager(format('use release %L', use_release.name));
    wanted := pgmeaning._release(use_release.name);
    LOCK TABLE pgmeaning.release IN SHARE ROW EXCLUSIVE MODE;  -- one is current, also where two decide at once
    UPDATE pgmeaning.release AS r SET current = false WHERE r.current AND r.name <> wanted.name;
    UPDATE pgmeaning.release AS r SET current = true WHERE r.name = wanted.name AND NOT r.current;
    PERFORM pgmeaning._make_default(wanted.embedder, 'embedder');
    IF wanted.reranker IS NOT NULL THEN
        PERFORM pgmeaning._make_default(wanted.reranker, 'reranker');
    END IF;
    PERFORM pgmeaning._log_decision('release used', wanted.name, NULL);
END
$$;
COMMENT ON FUNCTION pgmeaning.use_release
    IS 'Follows a release: its models become the defaults, and new collections have its dimensions.';

-- Whether a release could be used: its models are there, are of the right kind, and make vectors of that length.
CREATE OR REPLACE FUNCTION pgmeaning._check_release(r pgmeaning.release) RETURNS void
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    m       pgmeaning.model := pgmeaning._embedder(coalesce(r.embedder, ''));
    problem text;
BEGIN
    IF coalesce(r.name, '') !~ '\S' THEN
        problem := 'a release needs a name';
    ELSIF r.reranker IS NOT NULL
          AND NOT EXISTS (SELECT FROM pgmeaning.model AS j WHERE j.name = r.reranker AND j.kind = 'reranker') THEN
        problem := format('there is no reranker %L', r.reranker);
    ELSIF r.dimensions BETWEEN coalesce(m.min_dimensions, m.dimensions) AND m.dimensions IS NOT TRUE THEN
        problem := format('model %L has no vectors of %s dimensions', m.name, r.dimensions);
    END IF;
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014', MESSAGE = problem,
            HINT = 'pgmeaning.models shows each model''s kind and dimensions.';
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION pgmeaning.create_release(
    name text, embedder text, reranker text DEFAULT NULL, dimensions int DEFAULT NULL
) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    r pgmeaning.release;
BEGIN
    PERFORM pgmeaning._check_registry_manager(format('create release %L', create_release.name));
    r.name := create_release.name;
    r.embedder := create_release.embedder;
    r.reranker := create_release.reranker;
    r.dimensions := coalesce(create_release.dimensions,
                             (pgmeaning._embedder(coalesce(create_release.embedder, ''))).dimensions);
    r.current := false;
    PERFORM pgmeaning._check_release(r);
    INSERT INTO pgmeaning.release SELECT r.* ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'PM006', MESSAGE = format('there is already a release %L', r.name),
            HINT = 'A release means the same for ever: give it another name.';
    END IF;
    PERFORM pgmeaning._log_decision('release created', r.name, to_jsonb(r));
END
$$;
COMMENT ON FUNCTION pgmeaning.create_release
    IS 'Names an embedding model, a reranker and dimensions that belong together. Without dimensions: the model''s.';

CREATE OR REPLACE FUNCTION pgmeaning.sign_release(name text, signed_off_by text) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    wanted pgmeaning.release;
BEGIN
    PERFORM pgmeaning._check_registry_manager(format('sign release %L', sign_release.name));
    wanted := pgmeaning._release(sign_release.name);
    IF coalesce(sign_release.signed_off_by, '') !~ '\S' THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014', MESSAGE = 'nobody was named who signs the release off',
            HINT = 'Pass a name: pgmeaning.sign_release(''26.02'', ''Ada'').';
    END IF;
    UPDATE pgmeaning.release AS r SET signed_off_by = sign_release.signed_off_by, signed_off_at = now()
    WHERE r.name = wanted.name;
    PERFORM pgmeaning._log_decision('release signed off', wanted.name,
                                    jsonb_build_object('by', sign_release.signed_off_by));
END
$$;
COMMENT ON FUNCTION pgmeaning.sign_release IS 'Records who has signed a release off, once and for all.';
