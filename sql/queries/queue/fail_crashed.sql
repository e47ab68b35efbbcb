-- Marks rows as failed that crashed their sidecar at every attempt.
UPDATE pgmeaning.queue
SET failed_at = now(), claimed_by = NULL,
    last_error = format('its sidecar died %%s times while it embedded this row', died + 1)
WHERE failed_at IS NULL AND visible_at <= now() AND attempts >= %(attempts)s AND claimed_by IS NOT NULL
