-- Options of a model behind an endpoint: what of them may change, and what its limits leave.

-- The options that change no vector: models/registry.py has the same list. A name that is asked for at a URL tells
-- which model it is, if its location does not.
CREATE OR REPLACE FUNCTION pgmeaning._serving_options(m pgmeaning.model) RETURNS text[]
LANGUAGE sql IMMUTABLE
AS $$
    SELECT CASE WHEN m.backend <> 'http' THEN '{}'
        ELSE array_remove('{url,served_name,path,send,tokenizer,concurrency,timeout,retries,batch_rows,batch_tokens,
                            api_key_env,send_dimensions,rerank_field,sigmoid,extra_body,requests_per_minute,
                            tokens_per_minute,tokens_per_day,price}'::text[],
                          CASE WHEN m.location ~ '^https?://' THEN 'served_name' END) END
$$;

-- All of a model that must not change once a vector bears its name.
CREATE OR REPLACE FUNCTION pgmeaning._unchangeable(m pgmeaning.model) RETURNS jsonb
LANGUAGE sql IMMUTABLE
AS $$
    SELECT to_jsonb(m) - '{status,min_dimensions,reranker,replacement,added_at,allowed}'::text[]
           || jsonb_build_object('options', m.options - pgmeaning._serving_options(m))
$$;

CREATE OR REPLACE FUNCTION pgmeaning.set_model_options(name text, options jsonb) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    m     pgmeaning.model;
    other text;
BEGIN
    PERFORM pgmeaning._check_model_manager(set_model_options.name);
    SELECT * INTO m FROM pgmeaning.model AS known WHERE known.name = set_model_options.name FOR UPDATE;
    IF NOT FOUND THEN
        PERFORM pgmeaning._embedder(coalesce(set_model_options.name, ''));
    ELSIF jsonb_typeof(options) IS DISTINCT FROM 'object' THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014', MESSAGE = 'options are no JSON object',
            DETAIL = format('Given: %s.', coalesce(left(options::text, 100), 'NULL')),
            HINT = 'For example {"concurrency": 16}; a value of null takes an option away.';
    END IF;
    SELECT min(o) INTO other FROM jsonb_object_keys(options) AS o WHERE o <> ALL (pgmeaning._serving_options(m));
    IF other IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'PM006', MESSAGE = format('option %I of model %L cannot be set', other, m.name),
            DETAIL = CASE WHEN m.backend <> 'http' THEN format('Its backend is %s: each option may change its vectors.',
                                                               m.backend)
                          ELSE 'It may change its vectors. These do not: '
                               || array_to_string(pgmeaning._serving_options(m), ', ') || '.' END,
            HINT = 'Add a model under another name: pgmeaning model add.';
    ELSIF options ->> 'url' ~ '^[^/]*//[^/]*@' THEN
        RAISE EXCEPTION USING ERRCODE = 'PM006', MESSAGE = format('the URL of model %L contains a password', m.name),
            DETAIL = 'What is in the registry is no secret.', HINT = 'Put the key into PGMEANING_API_KEY.';
    END IF;
    UPDATE pgmeaning.model AS known
    SET options = (known.options || set_model_options.options)
                  - ARRAY(SELECT o.key FROM jsonb_each(set_model_options.options) AS o WHERE o.value = 'null')
    WHERE known.name = m.name;
    PERFORM pgmeaning._log_decision('set_model_options', m.name, pgmeaning._redacted(options));
END
$$;
COMMENT ON FUNCTION pgmeaning.set_model_options
    IS 'Sets options of a model behind an endpoint that change no vector, such as url, concurrency and limits, also '
       'while it is in use; null takes one away. Sidecars take it up within seconds.';

-- Notes what is about to be sent to a model's endpoint, unless that is over a limit: then nothing is noted, and `wait`
-- is how many seconds until there may be room, by which limit. `waits`: whether it may be told to; queries are not.
-- A limit of 0 is none. What is more than a limit by itself goes once nothing else is in its minute or day.
CREATE OR REPLACE FUNCTION pgmeaning._spend(
    model text, requests bigint, tokens bigint, requests_per_minute bigint, tokens_per_minute bigint,
    tokens_per_day bigint, waits bool, OUT wait float8, OUT by_limit text
)
LANGUAGE plpgsql
AS $$
DECLARE
    -- So fine the last minute is known: a slot counts until all of it is older.
    slot_seconds constant int := 5;
    moment   timestamptz := clock_timestamp();
    day      timestamptz := date_trunc('day', moment, 'UTC');
    used_day bigint;
    leaves   timestamptz;
BEGIN
    -- The day's row is held to the end of the transaction: one sidecar after the other.
    INSERT INTO pgmeaning.model_spending AS s (model, seconds, since) VALUES (_spend.model, 86400, day)
    ON CONFLICT ON CONSTRAINT model_spending_pkey DO UPDATE SET requests = s.requests
    RETURNING s.tokens INTO used_day;
    DELETE FROM pgmeaning.model_spending AS s
    WHERE s.model = _spend.model AND s.since < CASE s.seconds WHEN 86400 THEN day - interval '30 days'
                                                              ELSE moment - interval '2 minutes' END;
    IF waits THEN
        IF tokens_per_day > 0 AND used_day > 0 AND used_day + tokens > tokens_per_day THEN
            wait := extract(epoch FROM day + interval '1 day' - moment);
            by_limit := 'tokens_per_day';
            RETURN;
        END IF;
        -- The latest slot that must be over: with it and those after it, it would be too much.
        SELECT max(spent.since), CASE WHEN bool_or(spent.of_tokens) THEN 'tokens_per_minute'
                                      ELSE 'requests_per_minute' END
        INTO leaves, by_limit
        FROM (SELECT s.since,
                     requests_per_minute > 0
                         AND sum(s.requests) OVER w + _spend.requests > requests_per_minute AS of_requests,
                     tokens_per_minute > 0 AND sum(s.tokens) OVER w + _spend.tokens > tokens_per_minute AS of_tokens
              FROM pgmeaning.model_spending AS s
              WHERE s.model = _spend.model AND s.seconds = slot_seconds AND s.since > moment - interval '65 seconds'
              WINDOW w AS (ORDER BY s.since DESC)) AS spent
        WHERE spent.of_requests OR spent.of_tokens;
        IF leaves IS NOT NULL THEN
            wait := greatest(extract(epoch FROM leaves + interval '65 seconds' - moment), 0.1);
            RETURN;
        END IF;
        by_limit := NULL;
    END IF;
    INSERT INTO pgmeaning.model_spending AS s (model, seconds, since, requests, tokens)
    VALUES (_spend.model, 86400, day, _spend.requests, _spend.tokens),
           (_spend.model, slot_seconds,
            to_timestamp(floor(extract(epoch FROM moment) / slot_seconds) * slot_seconds),
            _spend.requests, _spend.tokens)
    ON CONFLICT ON CONSTRAINT model_spending_pkey
        DO UPDATE SET requests = s.requests + excluded.requests, tokens = s.tokens + excluded.tokens;
END
$$;
