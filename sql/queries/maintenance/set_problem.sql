UPDATE pgmeaning.collection SET problem = %(problem)s WHERE id = %(collection_id)s
