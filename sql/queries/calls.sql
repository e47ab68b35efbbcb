-- Statements that merely call one function or read one view; each begins with its name.

-- ---------------------------------------------------------------- What an application calls

-- name: attach
SELECT pgmeaning.attach(%(source)s::regclass, columns => %(columns)s, template => %(template)s,
    collection => %(collection)s, image => %(image)s, video => %(video)s, model => %(model)s,
    dimensions => %(dimensions)s, vector_type => %(vector_type)s, chunking => %(chunking)s, language => %(language)s,
    grant_to => %(grant_to)s::name[], always => %(always)s, allow_deprecated => %(allow_deprecated)s)

-- name: detach
SELECT pgmeaning.detach(%(collection)s, keep_vectors => %(keep_vectors)s)

-- name: pause
SELECT pgmeaning.pause(%(collection)s)

-- name: resume
SELECT pgmeaning.resume(%(collection)s)

-- name: refresh
SELECT pgmeaning.refresh(%(collection)s)

-- name: retry
SELECT pgmeaning.retry(%(collection)s)

-- name: rename_collection
SELECT pgmeaning.rename_collection(%(collection)s, %(new_name)s)

-- name: wait_for
CALL pgmeaning.wait_for(%(collection)s, %(key)s, %(timeout)s)

-- name: embed
SELECT pgmeaning.embed(%(input)s, collection => %(collection)s, model => %(model)s, as_query => %(as_query)s,
    timeout => %(timeout)s), m.name, m.fingerprint
FROM pgmeaning.model AS m WHERE m.name = pgmeaning._query_model(%(collection)s, %(model)s, 'embed(')

-- name: prepare
CALL pgmeaning.prepare(%(query)s, collection => %(collection)s, model => %(model)s, timeout => %(timeout)s)

-- name: ask_vectors
-- Where there is no loopback: a sidecar's vectors, which stay in the cache; null if time is up.
CALL pgmeaning._ask(pgmeaning._query_model(%(collection)s, %(model)s, 'embed('), %(inputs)s::text[], %(as_query)s,
    %(timeout)s, NULL, NULL, NULL)

-- name: ask_scores
-- Where there is no loopback: one array of a reranker's scores, as text; null if time is up.
CALL pgmeaning._ask(pgmeaning._reranker(%(reranker)s), ARRAY[%(query)s::text], true, %(timeout)s,
    %(documents)s::text[], NULL, NULL)

-- name: rerank
SELECT r.index, r.score FROM pgmeaning.rerank(%(query)s, %(documents)s::text[], model => %(reranker)s,
    timeout => %(timeout)s) AS r

-- name: similarity
SELECT pgmeaning.similarity(%(a)s, %(b)s, model => %(model)s, timeout => %(timeout)s)

-- ---------------------------------------------------------------- Swaps

-- name: explain_swap
SELECT * FROM pgmeaning.explain_swap(%(collection)s, model => %(model)s, dimensions => %(dimensions)s,
    vector_type => %(vector_type)s, columns => %(columns)s, template => %(template)s, image => %(image)s,
    video => %(video)s, chunking => %(chunking)s, language => %(language)s, price => %(price)s,
    allow_deprecated => %(allow_deprecated)s)

-- name: swap_start
SELECT pgmeaning.swap_start(%(collection)s, model => %(model)s, dimensions => %(dimensions)s,
    vector_type => %(vector_type)s, columns => %(columns)s, template => %(template)s, image => %(image)s,
    video => %(video)s, chunking => %(chunking)s, language => %(language)s, until => %(until)s,
    rows_per_second => %(rows_per_second)s, share => %(share)s, max_tokens => %(max_tokens)s, price => %(price)s,
    require_evaluation => %(require_evaluation)s, allow_deprecated => %(allow_deprecated)s)

-- name: swap_adjust
SELECT pgmeaning.swap_adjust(%(collection)s, until => %(until)s, rows_per_second => %(rows_per_second)s,
    share => %(share)s, max_tokens => %(max_tokens)s, price => %(price)s)

-- name: swap_activate
SELECT pgmeaning.swap_activate(%(collection)s, overrule => %(overrule)s, patience => %(patience)s)

-- name: swap_rollback
SELECT pgmeaning.swap_rollback(%(collection)s, overrule => %(overrule)s, patience => %(patience)s)

-- name: swap_finish
SELECT pgmeaning.swap_finish(%(collection)s)

-- name: swap_cancel
SELECT pgmeaning.swap_cancel(%(collection)s)

-- name: swaps
SELECT * FROM pgmeaning.swaps WHERE %(collection)s::text IS NULL OR collection = %(collection)s ORDER BY swap

-- ---------------------------------------------------------------- Searches, completed by client/hits.sql

-- name: search
SELECT h.*, 1 AS query_index
FROM pgmeaning.search(%(collection)s::text, %(query)s::text, k => %(k)s, filter => %(filter)s,
    filter_params => %(filter_params)s::text[], mode => %(mode)s, candidates => %(candidates)s, grouped => %(grouped)s,
    rerank => %(rerank)s, reranker => %(reranker)s, timeout => %(timeout)s, weights => %(weights)s::float8[],
    after => (%(after_distance)s, %(after_key)s)) WITH ORDINALITY AS h

-- name: search_many
SELECT h.*
FROM pgmeaning.search_many(%(collection)s, %(queries)s::text[], k => %(k)s, filter => %(filter)s,
    filter_params => %(filter_params)s::text[], mode => %(mode)s, candidates => %(candidates)s, grouped => %(grouped)s,
    timeout => %(timeout)s) WITH ORDINALITY AS h

-- name: nearest
SELECT h.*, NULL::int AS vector_rank, NULL::int AS text_rank, 1 AS query_index
FROM pgmeaning.nearest(%(collection)s,
    pgmeaning._of_model(%(vector)s, %(collection)s, %(vector_model)s, %(fingerprint)s), k => %(k)s,
    filter => %(filter)s, filter_params => %(filter_params)s::text[], mode => %(mode)s, candidates => %(candidates)s,
    grouped => %(grouped)s, after => (%(after_distance)s, %(after_key)s)) WITH ORDINALITY AS h

-- name: similar
SELECT h.*, NULL::int AS vector_rank, NULL::int AS text_rank, 1 AS query_index
FROM pgmeaning.similar(%(collection)s, %(key)s, k => %(k)s, filter => %(filter)s,
    filter_params => %(filter_params)s::text[], mode => %(mode)s, candidates => %(candidates)s, grouped => %(grouped)s,
    after => (%(after_distance)s, %(after_key)s)) WITH ORDINALITY AS h

-- ---------------------------------------------------------------- Relationships

-- name: matches_page
SELECT * FROM pgmeaning._matches_page(%(collection)s, %(other)s, %(k)s, %(threshold)s, %(mode)s, %(candidates)s,
    %(after)s, %(page)s)

-- name: duplicates
SELECT d.group_number, d.key::text, d.other_key::text, d.distance
FROM pgmeaning.duplicates(%(collection)s, %(threshold)s, %(grouped)s, %(mode)s, %(candidates)s) AS d

-- name: classify
SELECT c.key::text, c.label, c.score
FROM pgmeaning.classify(%(collection)s, %(labels)s::text[], timeout => %(timeout)s, after => %(after)s,
    rows => %(page)s) AS c

-- name: vectors_page
SELECT v.made_of, v.key, v.embedding FROM pgmeaning._vectors_page(%(collection)s, %(after)s, %(page)s) AS v

-- name: cluster_sample
SELECT * FROM pgmeaning._cluster_sample(%(collection)s, %(seed)s)

-- name: cluster_words
SELECT w.place, w.words FROM pgmeaning._cluster_words(pgmeaning._collection(%(collection)s), %(keys)s::text[]::jsonb[],
    %(places)s::int[], %(word_count)s) AS w

-- ---------------------------------------------------------------- Rows, by key and by filter

-- name: row_source
SELECT r.source, r.key_columns, r.key_types, r.columns, r.jsonb_columns, r.plain_columns, r.key_record, r.is_record,
    r.key_json
FROM pgmeaning._row_source(%(collection)s) AS r

-- name: possible_keys
SELECT pgmeaning._possible_keys(%(collection)s, %(keys)s::text[]::jsonb[])

-- name: matching_keys
SELECT m.key FROM pgmeaning._matching_keys(%(collection)s, %(filter)s, %(filter_params)s::text[], %(limit)s) AS m (key)

-- name: count_rows
SELECT pgmeaning._count_rows(%(collection)s, %(filter)s, %(filter_params)s::text[])

-- name: column_values
SELECT v.value, v.number_of_rows
FROM pgmeaning._column_values(%(collection)s, %(column)s, %(keys)s::text[], %(filter)s, %(filter_params)s::text[]) AS v

-- name: metadata_kinds
SELECT k.key, k.kind FROM pgmeaning._metadata_kinds(%(collection)s, %(column)s) AS k

-- name: owed_texts
SELECT o.key, o.content_hash, o.texts
FROM pgmeaning._owed_texts(%(collection)s, %(keys)s::text[]::jsonb[], %(characters)s) AS o

-- name: stored_vectors
SELECT v.place, v.embedding, v.model, v.fingerprint
FROM pgmeaning._stored_vectors(%(collection)s, %(keys)s::text[]::jsonb[], %(chunks)s::int[]) AS v

-- name: rows
SELECT r.place, r.names, r.types, r.contents, r.embedded_text
FROM pgmeaning._rows(%(collection)s, %(keys)s::text[]::jsonb[], NULL, %(columns)s::text[]) AS r ORDER BY r.place

-- name: embed_many
SELECT v.vector, m.name, m.fingerprint
FROM pgmeaning.model AS m
CROSS JOIN unnest(pgmeaning._vectors(m.name, %(inputs)s::text[], %(as_query)s, %(timeout)s))
    WITH ORDINALITY AS v (vector, place)
WHERE m.name = pgmeaning._query_model(%(collection)s, %(model)s, 'embed(')
ORDER BY v.place

-- ---------------------------------------------------------------- Vectors that leave and enter

-- name: vectors_definition
SELECT pgmeaning._vectors_definition(%(collection)s)

-- name: export_page
SELECT * FROM pgmeaning._export_page(%(collection)s, %(after)s, %(page)s)

-- name: adopt_page
SELECT last_key, seen, taken FROM pgmeaning._adopt_page(%(collection)s, %(adopted)s, %(after)s, %(page)s)

-- name: import_page
SELECT * FROM pgmeaning._import_page(%(collection)s, %(fingerprint)s, %(keys)s::text[], %(chunks)s::int[],
    %(hashes)b::bytea[], %(texts)s::text[], %(vectors)b)

-- ---------------------------------------------------------------- Views

-- name: status
SELECT * FROM pgmeaning.status WHERE %(collection)s::text IS NULL OR collection = %(collection)s
ORDER BY collection, model

-- name: failures
SELECT * FROM pgmeaning.failures WHERE %(collection)s::text IS NULL OR collection = %(collection)s
ORDER BY collection, failed_at NULLS LAST

-- name: sidecars
SELECT * FROM pgmeaning.sidecars ORDER BY started_at

-- name: models
SELECT * FROM pgmeaning.models ORDER BY kind, status, name

-- name: releases
SELECT * FROM pgmeaning.releases ORDER BY name

-- name: index_report
SELECT * FROM pgmeaning.index_report WHERE %(collection)s::text IS NULL OR collection = %(collection)s
ORDER BY collection, model

-- ---------------------------------------------------------------- The registry

-- name: add_model
SELECT pgmeaning._add_model(%(model)s::jsonb)

-- name: set_default_model
SELECT pgmeaning.set_default_model(%(name)s, %(reranker)s, %(keep_reranker)s)

-- name: template_parts
SELECT pgmeaning._template_parts(%(template)s)

-- name: deprecate_model
SELECT pgmeaning.deprecate_model(%(name)s, %(replacement)s)

-- name: retire_model
SELECT pgmeaning.retire_model(%(name)s, %(replacement)s)

-- name: support_model
SELECT pgmeaning.support_model(%(name)s)

-- name: use_release
SELECT pgmeaning.use_release(%(name)s)

-- name: create_release
SELECT pgmeaning.create_release(%(name)s, %(embedder)s, %(reranker)s, %(dimensions)s)

-- name: sign_release
SELECT pgmeaning.sign_release(%(name)s, %(signed_off_by)s)

-- name: refuse_retired
SELECT pgmeaning._refuse_retired(%(name)s)

-- name: allow_model
SELECT pgmeaning.allow_model(%(name)s, %(allowed)s)

-- name: register_models
SELECT pgmeaning._register_models(%s::jsonb)

-- name: register_releases
SELECT pgmeaning._register_releases(%s::jsonb)

-- ---------------------------------------------------------------- Indexes

-- name: plan_index
SELECT * FROM pgmeaning.plan_index(%(collection)s, %(kind)s, %(dimensions)s)

-- name: want_index
SELECT pgmeaning.want_index(%(collection)s, %(kind)s, %(dimensions)s)

-- ---------------------------------------------------------------- The sidecar

-- name: answer_request
-- Stores the reply. It is committed before the requests' locks are released.
SELECT pgmeaning._answer(%(model)s, %(as_query)s, %(input)s, %(embedding)s)

-- name: wake_others
SELECT pgmeaning._wake()

-- name: current_role
SELECT current_user

-- name: superuser
-- Not on the embedded server, which is its user's alone. Only who starts a server gives it this name.
SELECT r.rolname FROM pg_roles AS r
WHERE r.rolname = current_user AND r.rolsuper AND current_setting('cluster_name') <> 'pgmeaning embedded'

-- name: owns_installation
SELECT pg_has_role(n.nspowner, 'USAGE') FROM pg_namespace AS n WHERE n.nspname = 'pgmeaning'

-- name: only_tables
-- No views, no foreign tables: as far as this version knows of it, which all have since August 2024.
SELECT pg_catalog.set_config(s.name, 'view, foreign-table', false) FROM pg_catalog.pg_settings AS s
WHERE s.name = 'restrict_nonsystem_relation_kind'

-- name: listen
LISTEN pgmeaning

-- name: prepared_transactions
SHOW max_prepared_transactions

-- ---------------------------------------------------------------- The loopback

-- name: make_loopback
SELECT pgmeaning._make_loopback(%s, %s, %s)

-- name: test_loopback
SELECT t.problem, coalesce(t.elsewhere, false) FROM pgmeaning._test_loopback() AS t

-- ---------------------------------------------------------------- Locks

-- name: migration_lock
-- One migration at a time, until the end of the transaction. The first one of a database has nothing to lock yet.
DO $$
BEGIN
    IF pg_catalog.to_regclass('pgmeaning.alembic_version') IS NOT NULL THEN
        LOCK TABLE pgmeaning.alembic_version IN SHARE ROW EXCLUSIVE MODE;
    END IF;
END
$$

-- name: show_state
-- Tells triggers that a sidecar is awake, so that they send no NOTIFY, or asleep: otherwise they send none either.
SELECT pgmeaning._show_state(%(state)s::regclass, %(sidecar)s, %(seconds)s)

-- name: hide_state
SELECT pgmeaning._hide_state(%(state)s::regclass, %(sidecar)s)

-- name: try_maintenance
-- One sidecar at a time checks the sources, for one transaction.
SELECT true FROM pgmeaning.lock WHERE name = 'maintenance' FOR UPDATE SKIP LOCKED

-- name: try_index_lock
-- Held by the session that builds an index of this vector table.
SELECT pgmeaning._try_lock('index ' || %(vectors)s)

-- name: drop_index_lock
SELECT pgmeaning._let_go('index ' || %(vectors)s)

-- ---------------------------------------------------------------- Time-outs, as a database or role may set

-- name: no_transaction_timeout
SET transaction_timeout = 0

-- name: no_timeouts
-- Until the end of the transaction, as far as this version has them.
SELECT pg_catalog.set_config(s.name, '0', true) FROM pg_catalog.pg_settings AS s
WHERE s.name IN ('statement_timeout', 'lock_timeout', 'transaction_timeout', 'idle_in_transaction_session_timeout')

-- ---------------------------------------------------------------- Citus

-- name: stay_on_node
-- Until the end of the transaction: what is made is made on this node alone. Before the functions exist. Versions
-- before 12 do not know the second setting, and refuse names of theirs that they do not know.
SELECT pg_catalog.set_config(c.name, 'off', true)
FROM pg_catalog.unnest('{citus.enable_ddl_propagation,citus.enable_schema_based_sharding}'::text[]) AS c (name)
WHERE EXISTS (SELECT FROM pg_catalog.pg_settings AS s WHERE s.name = c.name)
   OR NOT EXISTS (SELECT FROM pg_catalog.pg_settings AS s WHERE s.name = 'citus.enable_ddl_propagation')

-- ---------------------------------------------------------------- Migrations

-- name: is_standby
SELECT pg_catalog.pg_is_in_recovery()

-- name: plain_path
SELECT pg_catalog.set_config('search_path', 'pg_catalog', true)
