-- A model's probes, with their vectors as text, which has each number exactly.
SELECT p.number, p.input, p.as_query, p.embedding::text, p.backend, p.dtype, p.device, p.libraries
FROM pgmeaning.model_probe AS p WHERE p.model = %(model)s ORDER BY p.number
