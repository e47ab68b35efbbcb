-- Whether row security does not hold for this role.
SELECT r.rolname, r.rolsuper OR r.rolbypassrls FROM pg_roles AS r WHERE r.rolname = current_user
