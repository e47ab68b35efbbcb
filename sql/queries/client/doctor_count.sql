SELECT count(*), count({vector}) FROM {table}
