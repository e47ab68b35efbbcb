-- pgvector's version in this database, and that of the files on the server, which runs in either case.
SELECT extension.extversion, available.default_version
FROM pg_catalog.pg_extension AS extension
LEFT JOIN pg_catalog.pg_available_extensions AS available ON available.name = extension.extname
WHERE extension.extname = 'vector'
