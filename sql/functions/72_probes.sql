-- Probes: what inputs gave a model's vectors, so that a process that gives others is noticed before it writes one.

CREATE OR REPLACE FUNCTION pgmeaning._guard_probes() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'PM006', MESSAGE = 'probes cannot be changed',
        DETAIL = 'They say what made the vectors that are there.',
        HINT = 'pgmeaning.forget_probes(model) lets the next process that runs the model make them anew.';
END
$$;
CREATE OR REPLACE TRIGGER probes_stay BEFORE UPDATE OR TRUNCATE ON pgmeaning.model_probe
    FOR EACH STATEMENT EXECUTE FUNCTION pgmeaning._guard_probes();

-- A sidecar has loaded a model as it was with this fingerprint, and is about to serve it: no error if it still is that.
-- From here on it cannot be changed behind that sidecar. probes: their vectors, if it has found none; returns whether
-- they were kept, which is not so if another sidecar was faster. SECURITY DEFINER: the sidecar's role may keep probes
-- where there are none, and change nothing else.
CREATE OR REPLACE FUNCTION pgmeaning._begin_serving(sidecar uuid, model text, fingerprint text, probes jsonb)
RETURNS bool
LANGUAGE plpgsql SECURITY DEFINER
AS $$
DECLARE
    known pgmeaning.model;
    first bool;
BEGIN
    SELECT m.* INTO known FROM pgmeaning.model AS m WHERE m.name = $2 FOR NO KEY UPDATE;
    IF known.fingerprint IS DISTINCT FROM $3 OR known.status = 'retired' THEN
        RAISE EXCEPTION USING ERRCODE = 'PM006', MESSAGE = format('model %L was changed while it was loaded', $2),
            HINT = 'It is loaded again.';
    END IF;
    UPDATE pgmeaning.sidecar AS s SET models = s.models || known.name
    WHERE s.id = _begin_serving.sidecar AND NOT known.name = ANY (s.models);
    first := probes IS NOT NULL AND NOT EXISTS (SELECT FROM pgmeaning.model_probe AS p WHERE p.model = known.name);
    IF first THEN
        INSERT INTO pgmeaning.model_probe (model, number, input, as_query, embedding, backend, dtype, device, libraries)
        SELECT known.name, p.number, p.input, p.as_query, p.embedding, p.backend, p.dtype, p.device, p.libraries
        FROM jsonb_populate_recordset(NULL::pgmeaning.model_probe, probes) AS p;
    END IF;
    RETURN first;
END
$$;

CREATE OR REPLACE FUNCTION pgmeaning.forget_probes(model text, force bool DEFAULT false) RETURNS bigint
LANGUAGE plpgsql
AS $$
DECLARE
    used      text;
    forgotten bigint;
BEGIN
    PERFORM pgmeaning._check_registry_manager(format('forget the probes of model %L', forget_probes.model)),
            pgmeaning._known_model(forget_probes.model);
    used := pgmeaning._used_by(forget_probes.model);
    IF used IS NOT NULL AND force IS NOT TRUE THEN
        RAISE EXCEPTION USING ERRCODE = 'PM006',
            MESSAGE = format('the probes of model %L say what made vectors that are there', forget_probes.model),
            DETAIL = used,
            HINT = 'Without them another model could go on in its place. To forget them all the same: force => true.';
    END IF;
    DELETE FROM pgmeaning.model_probe AS p WHERE p.model = forget_probes.model;
    GET DIAGNOSTICS forgotten = ROW_COUNT;
    PERFORM pgmeaning._log_decision('probes forgotten', forget_probes.model,
                                    jsonb_build_object('probes', forgotten, 'forced', used IS NOT NULL));
    RETURN forgotten;
END
$$;
COMMENT ON FUNCTION pgmeaning.forget_probes
    IS 'Forgets a model''s probes: the next process that runs it makes them anew. Refused while vectors bear its name, '
       'unless force is true. Returns how many there were.';

CREATE OR REPLACE FUNCTION pgmeaning._known_model(name text) RETURNS void
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pgmeaning.model AS m WHERE m.name = _known_model.name) THEN
        RAISE EXCEPTION USING ERRCODE = 'PM005', MESSAGE = format('there is no model %L', _known_model.name),
            HINT = 'pgmeaning.models lists them all.';
    END IF;
END
$$;

-- A release from elsewhere: models that are not there yet, probes of those that have none, and the release itself,
-- which this database follows from now on. Whether they are the same as those that are there has been compared before;
-- by fingerprint it is compared once more.
CREATE OR REPLACE FUNCTION pgmeaning._import_release(release jsonb, models jsonb, probes jsonb) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    wanted pgmeaning.release := jsonb_populate_record(NULL::pgmeaning.release, release);
    named  text;
BEGIN
    PERFORM pgmeaning._check_registry_manager(format('import release %L', wanted.name));
    PERFORM pgmeaning._add_model(m) FROM jsonb_array_elements(models) AS m
    WHERE NOT EXISTS (SELECT FROM pgmeaning.model AS k WHERE k.name = m ->> 'name');
    FOR named IN SELECT m ->> 'name' FROM jsonb_array_elements(models) AS m LOOP
        INSERT INTO pgmeaning.model_probe (model, number, input, as_query, embedding, backend, dtype, device, libraries,
                                           origin)
        SELECT named, p.number, p.input, p.as_query, p.embedding, p.backend, p.dtype, p.device, p.libraries, wanted.name
        FROM jsonb_populate_recordset(NULL::pgmeaning.model_probe, probes -> named) AS p
        WHERE NOT EXISTS (SELECT FROM pgmeaning.model_probe AS k WHERE k.model = named);
    END LOOP;
    PERFORM pgmeaning._check_release(wanted);
    INSERT INTO pgmeaning.release (name, embedder, reranker, dimensions)
    VALUES (wanted.name, wanted.embedder, wanted.reranker, wanted.dimensions) ON CONFLICT DO NOTHING;
    UPDATE pgmeaning.release AS r SET signed_off_by = wanted.signed_off_by, signed_off_at = wanted.signed_off_at
    WHERE r.name = wanted.name AND r.signed_off_at IS NULL AND wanted.signed_off_at IS NOT NULL;
    PERFORM pgmeaning._log_decision('release imported', wanted.name, release), pgmeaning.use_release(wanted.name);
END
$$;
