-- Whether row security does not hold for this role, of any table or of one that is its own.
SELECT r.rolname, r.rolsuper OR r.rolbypassrls
       OR EXISTS (SELECT FROM pgmeaning.collection AS c JOIN pg_class AS s ON s.oid = c.source
                  WHERE s.relrowsecurity AND NOT s.relforcerowsecurity AND pg_has_role(s.relowner, 'USAGE'))
FROM pg_roles AS r WHERE r.rolname = current_user
