UPDATE pgmeaning.request SET error = %(error)s WHERE id = %(id)s
