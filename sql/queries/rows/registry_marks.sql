SELECT m.collection_id, m.model, m.mark FROM pgmeaning._registry_marks() AS m
