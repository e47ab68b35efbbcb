INSERT INTO docstrings (module, name, signature, doc)
VALUES ('kitchen', 'boil_rice', '(grams)', 'Cook rice in salted water until it is soft.');
