-- Functions and views that speak of these come with the functions of the version before.
DROP VIEW IF EXISTS pgmeaning.index_report;
DROP VIEW IF EXISTS pgmeaning.status;
DROP TABLE pgmeaning.vector_index;
ALTER TABLE pgmeaning.request DROP COLUMN documents, DROP COLUMN reply;
ALTER TABLE pgmeaning.collection DROP COLUMN language;
DROP TYPE pgmeaning.ranked CASCADE;
