-- Texts with the words of the query between two control characters. Nothing where the collection has no language.
SELECT pg_catalog.ts_headline(c.language::regconfig, u.content,
                              pgmeaning._any_word(pgmeaning._query_words(c.language, %(query)s)),
                              pg_catalog.concat('HighlightAll=true, StartSel=', pg_catalog.chr(2), ', StopSel=',
                                                pg_catalog.chr(3)))
FROM pgmeaning.collection AS c CROSS JOIN unnest(%(texts)s::text[]) WITH ORDINALITY AS u (content, place)
WHERE c.name = %(collection)s AND c.language IS NOT NULL ORDER BY u.place
