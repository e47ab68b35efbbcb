SELECT (hit).module, (hit).name, distance, (hit).doc
FROM pgmeaning.search(NULL::docstrings, 'stop the program for a while', k => 3, filter => $$ doc LIKE '%second%' $$);
