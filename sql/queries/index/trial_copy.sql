-- Some of the blocks, half as many again as wanted: blocks are chosen by chance.
CREATE TEMPORARY TABLE pgmeaning_trial ON COMMIT DROP AS
SELECT v.embedding, v.signature FROM {vectors} AS v TABLESAMPLE SYSTEM ({percent}) LIMIT {rows}
