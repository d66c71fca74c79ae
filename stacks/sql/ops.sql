-- What operations need inside the application database: the heartbeat, proofs of writes, and the ledger of acknowledged
-- writes. Idempotent: run as the superuser on the primary, in the application database, as often as you like.

CREATE SCHEMA IF NOT EXISTS ops;
REVOKE ALL ON SCHEMA ops FROM PUBLIC;

-- The timeline of the WAL being written now. Unlike pg_control_checkpoint() it is right from the first moment after a promotion.
CREATE OR REPLACE FUNCTION ops.timeline() RETURNS int
    LANGUAGE sql VOLATILE PARALLEL SAFE
    SET search_path = pg_catalog
    AS $$ SELECT ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int $$;
REVOKE ALL ON FUNCTION ops.timeline() FROM PUBLIC;

-- One row that the primary renews each second: its age on a replica is that replica's lag, on any survivor of a disaster the
-- upper bound of what was lost.
CREATE TABLE IF NOT EXISTS ops.heartbeat (
    id  int PRIMARY KEY DEFAULT 1 CHECK (id = 1),
    at  timestamptz NOT NULL,
    lsn pg_lsn
) WITH (fillfactor = 50);

-- One row per way in (a proxy, a pooler): each proof of a write replaces the one before, so the table never grows.
CREATE TABLE IF NOT EXISTS ops.proof (
    via       text PRIMARY KEY,
    token     text NOT NULL,
    operation text NOT NULL DEFAULT '',
    at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    timeline  int NOT NULL DEFAULT ops.timeline()
) WITH (fillfactor = 50);

-- One row per acknowledged (or possibly committed) write of a ledger run.
CREATE TABLE IF NOT EXISTS ops.ledger (
    run      uuid NOT NULL,
    writer   int NOT NULL,
    seq      bigint NOT NULL,
    at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    timeline int NOT NULL DEFAULT ops.timeline(),
    PRIMARY KEY (run, writer, seq)
);

-- The archives of partitions: what was taken out of the database, where it is, and how far that came. `open`: frozen,
-- being detached or exported; `proven`: read back from the store and compared, the table kept for a while; `dropped`: only
-- in the store; `restored`: attached again; `expired`: deleted from the store too.
CREATE TABLE IF NOT EXISTS ops.partition_archives (
    archive         text PRIMARY KEY,
    table_name      text NOT NULL,
    partition       text NOT NULL,
    lower_bound     timestamptz NOT NULL,
    upper_bound     timestamptz NOT NULL CHECK (upper_bound > lower_bound),
    state           text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'proven', 'dropped', 'restored', 'expired')),
    -- Key and SHA-256 (hex) of the manifest in the store; empty while nothing is exported.
    manifest        text NOT NULL DEFAULT '',
    manifest_sha256 text NOT NULL DEFAULT '' CHECK (manifest_sha256 ~ '^([0-9a-f]{64})?$'),
    rows            bigint,
    bytes           bigint,
    started_at      timestamptz NOT NULL DEFAULT now(),
    proven_at       timestamptz,
    dropped_at      timestamptz,
    restored_at     timestamptz,
    expired_at      timestamptz,
    CHECK (state IN ('open', 'restored') OR manifest <> '')
);
-- A partition is in one archive at a time.
CREATE UNIQUE INDEX IF NOT EXISTS partition_archives_live ON ops.partition_archives (table_name, lower_bound)
    WHERE state IN ('open', 'proven', 'dropped');

-- Stands on a partition that is archived or about to be: a late row would be missing from the archive and from the
-- balances carried forward, so it is refused instead of lost.
CREATE OR REPLACE FUNCTION ops.refuse_change() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path = pg_catalog
    AS $$
BEGIN
    RAISE EXCEPTION 'partition % is archived and takes no more changes', TG_TABLE_NAME
        USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'Post the change with a present date.';
END $$;
REVOKE ALL ON FUNCTION ops.refuse_change() FROM PUBLIC;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'wms_owner') THEN
        -- wmsctl partitions works as the owner of the tables.
        GRANT USAGE ON SCHEMA ops TO wms_owner;
        GRANT EXECUTE ON FUNCTION ops.refuse_change() TO wms_owner;
        GRANT SELECT, INSERT, UPDATE ON ops.partition_archives TO wms_owner;
    END IF;
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'wms_ops') THEN
        GRANT USAGE ON SCHEMA ops TO wms_ops;
        GRANT EXECUTE ON FUNCTION ops.timeline() TO wms_ops;
        GRANT SELECT ON ops.heartbeat TO wms_ops;
        GRANT SELECT, INSERT, UPDATE ON ops.proof TO wms_ops;
        GRANT SELECT, INSERT, DELETE ON ops.ledger TO wms_ops;
    END IF;
    -- The exporter is a member of pg_monitor and turns the heartbeat into a metric.
    GRANT USAGE ON SCHEMA ops TO pg_monitor;
    GRANT SELECT ON ops.heartbeat TO pg_monitor;
    GRANT SELECT ON ops.partition_archives TO pg_monitor;
END
$$;
