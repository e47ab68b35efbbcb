-- A claim or reply that a crash of the server loses costs one more request, so no commit here waits for the disk.
SET synchronous_commit = off;
LISTEN pgmeaning_query
