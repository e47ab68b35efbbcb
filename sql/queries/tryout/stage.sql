-- The file's rows as they come, with their number; gone with the transaction.
CREATE TEMPORARY TABLE pgmeaning_staged ({place} bigint GENERATED ALWAYS AS IDENTITY, {columns}) ON COMMIT DROP
