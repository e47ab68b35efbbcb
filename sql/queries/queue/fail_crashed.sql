-- Marks rows as failed that crashed their sidecar at every attempt.
UPDATE pgmeaning.queue
SET failed_at = now(), claimed_by = NULL,
    last_error = coalesce(last_error, format('its sidecar died %%s times while it embedded this row', attempts))
WHERE failed_at IS NULL AND visible_at <= now() AND attempts >= %(attempts)s
