-- If a server crash loses a claim or reply, that costs only one more request, so no commit here waits for the disk.
SET synchronous_commit = off;
LISTEN pgmeaning_query
