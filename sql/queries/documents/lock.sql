-- Two processes that make the same table wait for each other, to the end of the transaction.
SELECT pg_advisory_xact_lock(hashtext('pgmeaning: a table of documents'))
