-- What PgBouncer asks to learn a client's SCRAM verifier. Superusers and replication roles never pass a pooler.
CREATE SCHEMA IF NOT EXISTS pooler;
REVOKE ALL ON SCHEMA pooler FROM PUBLIC;
GRANT USAGE ON SCHEMA pooler TO pgbouncer;

CREATE OR REPLACE FUNCTION pooler.lookup(login text)
RETURNS TABLE (name text, verifier text)
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog
AS $$
    SELECT rolname::text, rolpassword
      FROM pg_authid
     WHERE rolname = login
       AND rolcanlogin
       AND NOT rolsuper
       AND NOT rolreplication
       AND (rolvaliduntil IS NULL OR rolvaliduntil > now())
$$;

REVOKE ALL ON FUNCTION pooler.lookup(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION pooler.lookup(text) TO pgbouncer;
