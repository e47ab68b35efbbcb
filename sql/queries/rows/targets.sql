-- Every (collection, model), with the SQL that depends on its key and columns, quoted by the database itself.
SELECT c.id AS collection_id, c.name AS collection, t.model, t.dimensions,
       coalesce(pgmeaning._vector_type(t.vectors), 'vector') AS vector_type, c.state = 'paused' AS paused,
       coalesce(c.problem, CASE WHEN made.oid IS NULL THEN 'its vector table was dropped' END,
                CASE WHEN m.fingerprint <> t.fingerprint THEN 'its model was changed: the fingerprint differs' END,
                CASE WHEN t.scan_retry_at > now() THEN t.scan_problem END) AS problem,
       r.oid IS NOT NULL AS source_exists, t.scanning, t.scan_finished_at,
       pgmeaning._template_parts(c.template) AS template_parts, c.columns::text[] AS columns,
       c.image, c.video, c.chunking, c.language IS NOT NULL AS has_words,
       cardinality(c.key_columns) AS key_width,
       CASE WHEN r.oid IS NULL THEN '{}' ELSE jsonb_build_object(
           'source', pgmeaning._relation_name(c.source),
           'vectors', pgmeaning._relation_name(t.vectors),
           'key_record', pgmeaning._key_record(c.key_columns, c.key_types),
           'record_key', pgmeaning._column_list('k', c.key_columns),
           'source_key', pgmeaning._column_list('s', c.key_columns),
           'source_key_json', pgmeaning._key_json('s', c.key_columns, c),
           'vector_key_json', pgmeaning._key_json('v', c.vector_key_columns, c),
           'source_columns', (SELECT string_agg(DISTINCT format('s.%%I', u.col), ', ')  -- all that the reader may read
                              FROM unnest(c.key_columns || pgmeaning._embedded_columns(c)) AS u (col)),
           'source_guard', pgmeaning._source_guard(c),
           'source_after_cursor', pgmeaning._behind('s', c.key_columns, c, 'last_key'),
           'vector_after_first', pgmeaning._behind('v', c.vector_key_columns, c, 'first_key'),
           'vector_after_last', pgmeaning._behind('v', c.vector_key_columns, c, 'last_key'),
           'source_is_record', pgmeaning._key_match('s', c.key_columns, 'k', c.key_columns, c.key_types),
           'vector_is_record', pgmeaning._key_match('v', c.vector_key_columns, 'k', c.key_columns, c.key_types),
           'content_hash', pgmeaning._content_hash('s', c),
           'words', pgmeaning._words_sql(c, 's'),
           'words_column', CASE WHEN c.language IS NULL THEN '' ELSE ', words' END,
           'contents', coalesce((SELECT string_agg(format('left(%%s, bound.characters)',
                                                          pgmeaning._column_text('s', c.source, col)), ', ' ORDER BY i)
                                 FROM unnest(c.columns) WITH ORDINALITY AS u (col, i)), 'NULL')
               || CASE WHEN c.image IS NULL THEN '' ELSE ', ' || pgmeaning._media_content('s', c.source, c.image) END
               || CASE WHEN c.video IS NULL THEN '' ELSE ', ' || pgmeaning._media_content('s', c.source, c.video) END,
           'content_bytes', coalesce((SELECT string_agg(format('coalesce(octet_length(%%s), 0)::bigint',
                                                               pgmeaning._column_text('s', c.source, col)), ' + '
                                                        ORDER BY i)
                                      FROM unnest(c.columns) WITH ORDINALITY AS u (col, i)), '0'),
           'vector_columns', (SELECT string_agg(quote_ident(k), ', ' ORDER BY i)
                              FROM unnest(c.vector_key_columns) WITH ORDINALITY AS u (k, i))
       ) || coalesce(pgmeaning._sibling(c, t), '{}') END AS parts, t.fingerprint, t.scan_share,
       coalesce(t.scan_tokens, t.scan_share) IS NOT NULL AS is_limited
FROM pgmeaning.target AS t
JOIN pgmeaning.collection AS c ON c.id = t.collection_id
JOIN pgmeaning.model AS m ON m.name = t.model
LEFT JOIN pg_class AS r ON r.oid = c.source
LEFT JOIN pg_class AS made ON made.oid = t.vectors
WHERE (%(collection)s::text IS NULL OR c.name = %(collection)s)
  AND (%(collections)s::int[] IS NULL OR c.id = ANY (%(collections)s))
ORDER BY c.id, t.model
