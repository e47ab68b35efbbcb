-- Requests that wait until their model is loaded, which began so many seconds ago: said to whoever waits no longer.
UPDATE pgmeaning.request SET loading_since = clock_timestamp() - make_interval(secs => %(seconds)s)
WHERE id = ANY (%(ids)s::uuid[])
