-- Functions of earlier versions whose arguments or results changed. They must go before the new ones are made: beside
-- those they would be overloads, and a call could mean either.
DROP FUNCTION IF EXISTS pgmeaning.search(text, text, int, text, text, int, interval);
DROP FUNCTION IF EXISTS pgmeaning.nearest(text, vector, int, text, text, int);
DROP FUNCTION IF EXISTS pgmeaning.similar(text, jsonb, int, text, text, int);
DROP FUNCTION IF EXISTS pgmeaning._check_filter(pgmeaning.collection, text);
DROP FUNCTION IF EXISTS pgmeaning._ask_loopback(text, text, bool, interval);
DROP PROCEDURE IF EXISTS pgmeaning._ask(text, text, bool, interval, text);
DROP FUNCTION IF EXISTS pgmeaning._search_mode(pgmeaning.target);
DROP FUNCTION IF EXISTS pgmeaning._source_rows(pgmeaning.collection, text);
DROP FUNCTION IF EXISTS pgmeaning._content_hash(text, name[]);
DROP FUNCTION IF EXISTS pgmeaning._request(text, text, bool, interval);
DROP FUNCTION IF EXISTS pgmeaning._ask_loopback(text, text[], bool, interval);
DROP PROCEDURE IF EXISTS pgmeaning._ask(text, text[], bool, interval, text[]);
DROP FUNCTION IF EXISTS pgmeaning.search(anyelement, text, int, text, text, int, interval);
DROP FUNCTION IF EXISTS pgmeaning.attach(regclass, text[], text, text, name, name, text, int, jsonb, name[], bool);
DROP FUNCTION IF EXISTS pgmeaning.attach(regclass, text[], text, text, name, name, text, int, jsonb, name[], bool, text);
DROP FUNCTION IF EXISTS pgmeaning._make_target(pgmeaning.collection, text, int, text);
DROP FUNCTION IF EXISTS pgmeaning._answer(bigint, text);
DROP FUNCTION IF EXISTS pgmeaning._nearest(pgmeaning.collection, pgmeaning.target, vector, int, text, text, int, jsonb);
DROP FUNCTION IF EXISTS pgmeaning.nearest(text, vector, int, text, text, int, anycompatiblearray);
DROP FUNCTION IF EXISTS pgmeaning.similar(text, jsonb, int, text, text, int, anycompatiblearray);
DROP FUNCTION IF EXISTS pgmeaning.search_many(text, text[], int, text, text, int, interval, anycompatiblearray, float8[], float8);
DROP FUNCTION IF EXISTS pgmeaning.search(text, text, int, text, text, int, interval, anycompatiblearray, int, text, float8[], float8);
DROP FUNCTION IF EXISTS pgmeaning._by_words(pgmeaning.collection, pgmeaning.target, text, vector, int, text);
DROP FUNCTION IF EXISTS pgmeaning._hybrid(pgmeaning.collection, pgmeaning.target, text, vector, int, text, int, float8[], float8);
DROP FUNCTION IF EXISTS pgmeaning._places(text, vector, bigint);
DROP FUNCTION IF EXISTS pgmeaning._candidates(pgmeaning.collection, pgmeaning.target, record, vector, int, text, text);
