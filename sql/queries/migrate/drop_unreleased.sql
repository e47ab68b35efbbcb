DROP SCHEMA IF EXISTS pgmeaning, pgmeaning_data CASCADE
