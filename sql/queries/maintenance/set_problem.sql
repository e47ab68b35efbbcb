-- An orphan's problem is maintenance's own.
UPDATE pgmeaning.collection SET problem = %(problem)s WHERE id = %(collection_id)s AND kept_until IS NULL
