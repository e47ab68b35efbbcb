-- Whether somebody waits for a lock on the vector table that conflicts with the build of its index.
SELECT EXISTS (SELECT FROM pg_locks
               WHERE NOT granted AND relation = %(vectors)s
               AND mode IN ('AccessExclusiveLock', 'ShareRowExclusiveLock')
               AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))
