-- How long documents are cut into chunks: what attach() is told, checked and complete. The sidecar does the cutting.

-- A whole number of the chunking, within its bounds.
CREATE OR REPLACE FUNCTION pgmeaning._chunking_number(chunking jsonb, wanted text, preset int, lowest int, highest int,
                                                      hint text) RETURNS int
LANGUAGE plpgsql IMMUTABLE
AS $$
DECLARE
    given jsonb := coalesce(nullif(chunking -> wanted, 'null'), to_jsonb(preset));
BEGIN
    IF jsonb_typeof(given) <> 'number' OR given::numeric % 1 <> 0 OR given::numeric < lowest
       OR given::numeric > highest THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014', MESSAGE = format('the %s of chunking is %s', wanted, given),
            DETAIL = format('It is a number of tokens, from %s to %s.', lowest, highest), HINT = hint;
    END IF;
    RETURN given::numeric;
END
$$;

-- The chunking with all that was left out of it; null: documents are not cut.
CREATE OR REPLACE FUNCTION pgmeaning._check_chunking(chunking jsonb, columns name[], model pgmeaning.model)
RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE
AS $$
DECLARE
    methods constant text[] := '{tokens,sentences,paragraphs,markdown}';
    example constant text := 'chunking => ''{"method": "tokens", "size": 512, "overlap": 64}''';
    unknown text;
    size    int;
    most    int := coalesce(model.max_tokens, 1000000);
BEGIN
    IF chunking IS NULL THEN
        RETURN NULL;
    ELSIF jsonb_typeof(chunking) <> 'object' THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014',
            MESSAGE = format('chunking is %s, not an object', left(chunking::text, 100)), HINT = example;
    ELSIF columns = '{}' THEN
        RAISE EXCEPTION USING ERRCODE = 'PM004', MESSAGE = 'there is no text to cut into chunks',
            DETAIL = 'Images and videos are not cut.', HINT = 'Leave chunking out, or name columns of text.';
    END IF;
    SELECT k INTO unknown FROM jsonb_object_keys(chunking) AS k WHERE k NOT IN ('method', 'size', 'overlap') LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014', MESSAGE = format('chunking knows no %L', unknown),
            DETAIL = 'It knows method, size and overlap.', HINT = example;
    ELSIF chunking ->> 'method' IS NULL OR NOT chunking ->> 'method' = ANY (methods) THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014',
            MESSAGE = format('there is no method %s of chunking',
                             coalesce(quote_literal(chunking ->> 'method'), 'NULL')),
            DETAIL = format('Methods: %s.', array_to_string(methods, ', ')), HINT = example;
    END IF;
    size := pgmeaning._chunking_number(chunking, 'size', least(512, most), 16, most,
                                       format('Model %L reads no more; 256 to 512 suit most texts.', model.name));
    RETURN jsonb_build_object('method', chunking ->> 'method', 'size', size,
        'overlap', pgmeaning._chunking_number(chunking, 'overlap', 0, 0, size - 1,
                                              'It must be less than size; an eighth of it is usual.'));
END
$$;
