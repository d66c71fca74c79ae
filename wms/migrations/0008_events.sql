-- Events on their way to Redis Streams, the jobs that one process at a time does, and what warms the cache.

-- The place of an event in the stream, given once the event is sure to be committed and nothing can come before it;
-- contiguous from 1. The stream's entries have it as their id, so an event cannot be there twice, and what the stream
-- lacks (a relay died before it published, Redis failed over and lost entries) is told by its last id.
ALTER TABLE outbox
    ADD sequence    bigint UNIQUE,
    ADD numbered_at timestamptz;
-- What is read and emptied all the time needs its dead rows gone sooner than a fifth of it.
ALTER TABLE outbox SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
CREATE INDEX outbox_waiting ON outbox (xid, event_id) WHERE sequence IS NULL;
DROP INDEX outbox_order;

-- One row: who relays, until when, and the last sequence given. A lease and no advisory lock, because the pooler hands
-- every transaction to another session.
CREATE TABLE event_relay (
    only_row    boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    holder      text NOT NULL DEFAULT '',
    lease_until timestamptz NOT NULL DEFAULT '-infinity',
    sequence    bigint NOT NULL DEFAULT 0
);
INSERT INTO event_relay DEFAULT VALUES;
ALTER TABLE event_relay ENABLE ROW LEVEL SECURITY;

-- One turn of the relay `p_holder`, which has seen p_after as the stream's last sequence. leads: whether it has the
-- lease (p_lease_ms from now). Then events are those to publish next, at most p_limit, a JSON array by sequence, and lsn
-- is not before the commit of any of them. A turn that finds nothing new writes nothing.
--
-- Two relays can believe to lead only after a pause of one that was longer than its lease. Numbers are given under the
-- row's lock, and the stream takes no id twice, so even then nothing is lost, doubled or out of order.
--
-- For every tenant, so it runs as the owner.
CREATE FUNCTION relay_turn(
    p_holder text, p_lease_ms integer, p_after bigint, p_limit integer,
    OUT leads boolean, OUT lsn text, OUT events text
)
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    v_relay public.event_relay%ROWTYPE;
    v_given bigint;
BEGIN
    SELECT * INTO STRICT v_relay FROM public.event_relay;
    leads := v_relay.holder = p_holder AND v_relay.lease_until > clock_timestamp();
    IF NOT leads OR v_relay.lease_until < clock_timestamp() + p_lease_ms * interval '0.5 ms' THEN
        UPDATE public.event_relay r
            SET holder = p_holder, lease_until = clock_timestamp() + p_lease_ms * interval '1 ms'
            WHERE r.holder = p_holder OR r.lease_until < clock_timestamp();
        leads := FOUND;
        IF NOT leads THEN
            RETURN;
        END IF;
    END IF;
    IF p_after > v_relay.sequence OR EXISTS (
        SELECT FROM public.outbox o
        WHERE o.sequence IS NULL AND o.xid < pg_snapshot_xmin(pg_current_snapshot())
    ) THEN
        SELECT * INTO STRICT v_relay FROM public.event_relay FOR UPDATE;
        -- Another stream, or a database restored to an earlier time: the ids of the stream must go on rising.
        v_relay.sequence := greatest(v_relay.sequence, p_after);
        WITH ready AS MATERIALIZED (
            SELECT o.event_id, row_number() OVER (ORDER BY o.xid, o.event_id) AS n
            FROM (
                SELECT w.event_id, w.xid FROM public.outbox w
                WHERE w.sequence IS NULL AND w.xid < pg_snapshot_xmin(pg_current_snapshot())
                ORDER BY w.xid, w.event_id LIMIT p_limit
            ) o
        ), given AS (
            UPDATE public.outbox o SET sequence = v_relay.sequence + r.n, numbered_at = clock_timestamp()
            FROM ready r WHERE o.event_id = r.event_id AND o.sequence IS NULL
            RETURNING o.sequence
        )
        SELECT coalesce(max(g.sequence), v_relay.sequence) INTO v_given FROM given g;
        UPDATE public.event_relay r SET sequence = v_given;
    END IF;
    SELECT coalesce(jsonb_agg(to_jsonb(e) ORDER BY e.sequence), '[]')::text INTO events
    FROM (
        SELECT o.sequence, o.tenant_id, o.type, o.entity, o.identifier, o.payload,
            extract(epoch FROM o.occurred_at) AS occurred_at
        FROM public.outbox o WHERE o.sequence > p_after ORDER BY o.sequence LIMIT p_limit
    ) e;
    -- What this transaction sees was flushed before it became visible.
    lsn := pg_current_wal_flush_lsn()::text;
END $$;

-- Forgets events that were numbered longer than p_keep_s seconds ago, at most p_limit; returns how many. So long a
-- stream can lose its newest entries and still get them again.
CREATE FUNCTION forget_events(p_keep_s integer, p_limit integer) RETURNS integer
    LANGUAGE sql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
    WITH old AS (
        SELECT o.event_id FROM public.outbox o
        WHERE o.sequence IS NOT NULL AND o.numbered_at < now() - p_keep_s * interval '1 s'
        ORDER BY o.sequence LIMIT p_limit FOR UPDATE SKIP LOCKED
    ), gone AS (
        DELETE FROM public.outbox o USING old WHERE o.event_id = old.event_id RETURNING 1
    )
    SELECT count(*)::integer FROM gone
    $$;

-- Jobs that are due once in a while for all processes together.
CREATE TABLE periodic_jobs (
    name          text PRIMARY KEY CHECK (name <> ''),
    holder        text NOT NULL,
    claimed_until timestamptz NOT NULL,
    done_at       timestamptz NOT NULL DEFAULT '-infinity'
);
ALTER TABLE periodic_jobs ENABLE ROW LEVEL SECURITY;

-- Whether p_holder shall do the job now: it is due (done p_every_s ago or never) and nobody is at it. The claim holds
-- for p_claim_s: a process that dies at work is succeeded then.
CREATE FUNCTION claim_job(p_name text, p_holder text, p_every_s integer, p_claim_s integer) RETURNS boolean
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    -- Most calls find it not due, and write nothing.
    IF EXISTS (SELECT FROM public.periodic_jobs j WHERE j.name = p_name
            AND (j.claimed_until > now() OR j.done_at > now() - p_every_s * interval '1 s')) THEN
        RETURN false;
    END IF;
    INSERT INTO public.periodic_jobs AS j (name, holder, claimed_until)
        VALUES (p_name, p_holder, now() + p_claim_s * interval '1 s')
        ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, claimed_until = excluded.claimed_until
        WHERE j.claimed_until <= now() AND j.done_at <= now() - p_every_s * interval '1 s';
    RETURN FOUND;
END $$;

-- The job is done; who has lost the claim meanwhile changes nothing.
CREATE FUNCTION finish_job(p_name text, p_holder text) RETURNS boolean
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    UPDATE public.periodic_jobs j SET done_at = now(), claimed_until = '-infinity'
        WHERE j.name = p_name AND j.holder = p_holder AND j.claimed_until > now();
    RETURN FOUND;
END $$;

-- ABC classes of all SKUs of all tenants, in one statement: ordered by the units issued in the last p_days days, A are
-- those that make the first 80 % of a tenant's units, B the next 15 %, C the rest and what did not move. (H. F. Dickie,
-- ABC Inventory Analysis Shoots for Dollars, not Pennies, Factory Management and Maintenance 109, 1951; the shares as in
-- E. A. Silver, D. F. Pyke, D. J. Thomas, Inventory and Production Management in Supply Chains, 4th ed., 2.1.) A SKU
-- belongs to the class in which its share begins, so that a single SKU that makes 90 % is A. Returns how many changed;
-- each of them emits sku.classified.
CREATE FUNCTION classify_abc(p_days integer) RETURNS integer
    LANGUAGE sql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
    WITH issued AS (
        SELECT t.tenant_id, t.sku_id, sum(t.quantity) AS units
        FROM public.inventory_transactions t
        WHERE t.kind = 'issue' AND t.created_at >= now() - p_days * interval '1 day'
        GROUP BY t.tenant_id, t.sku_id
    ), shares AS (
        SELECT i.tenant_id, i.sku_id,
            (sum(i.units) OVER w - i.units) / sum(i.units) OVER (PARTITION BY i.tenant_id) AS before
        FROM issued i
        WINDOW w AS (PARTITION BY i.tenant_id ORDER BY i.units DESC, i.sku_id)
    ), classes AS (
        SELECT s.tenant_id, s.sku_id,
            CASE WHEN h.before < 0.80 THEN 'A' WHEN h.before < 0.95 THEN 'B' ELSE 'C' END AS abc_class
        FROM public.skus s LEFT JOIN shares h ON h.tenant_id = s.tenant_id AND h.sku_id = s.sku_id
    ), changed AS (
        UPDATE public.skus s SET abc_class = c.abc_class, updated_at = now()
        FROM classes c
        WHERE s.tenant_id = c.tenant_id AND s.sku_id = c.sku_id AND s.abc_class <> c.abc_class
        RETURNING s.tenant_id, s.code, s.abc_class
    ), told AS (
        INSERT INTO public.outbox (tenant_id, type, entity, identifier, payload)
        SELECT c.tenant_id, 'sku.classified', 'sku', c.code, jsonb_build_object('abc_class', c.abc_class) FROM changed c
        RETURNING 1
    )
    SELECT count(*)::integer FROM told
    $$;

-- What to warm, of every tenant: the tenants and their warehouses …
CREATE FUNCTION warm_warehouses() RETURNS TABLE (tenant_id bigint, warehouse_id bigint)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT t.tenant_id, w.warehouse_id FROM public.tenants t LEFT JOIN public.warehouses w USING (tenant_id)
    ORDER BY 1, 2
    $$;

-- … and the p_limit SKUs of all of them that are likely to be asked for next: class A first, then those that were
-- moved most in the last p_hours hours.
CREATE FUNCTION warm_skus(p_hours integer, p_limit integer) RETURNS TABLE (tenant_id bigint, code text)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT s.tenant_id, s.code
    FROM public.skus s
    LEFT JOIN (
        SELECT t.tenant_id, t.sku_id, count(*) AS moves
        FROM public.inventory_transactions t
        WHERE t.created_at >= now() - p_hours * interval '1 hour'
        GROUP BY t.tenant_id, t.sku_id
    ) m ON m.tenant_id = s.tenant_id AND m.sku_id = s.sku_id
    ORDER BY s.abc_class, m.moves DESC NULLS LAST, s.sku_id
    LIMIT p_limit
    $$;

REVOKE ALL ON FUNCTION relay_turn(text, integer, bigint, integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION forget_events(integer, integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION claim_job(text, text, integer, integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION finish_job(text, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION classify_abc(integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION warm_warehouses() FROM PUBLIC;
REVOKE ALL ON FUNCTION warm_skus(integer, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION relay_turn(text, integer, bigint, integer) TO wms_app;
GRANT EXECUTE ON FUNCTION forget_events(integer, integer) TO wms_app;
GRANT EXECUTE ON FUNCTION claim_job(text, text, integer, integer) TO wms_app;
GRANT EXECUTE ON FUNCTION finish_job(text, text) TO wms_app;
GRANT EXECUTE ON FUNCTION classify_abc(integer) TO wms_app;
GRANT EXECUTE ON FUNCTION warm_warehouses() TO wms_app;
GRANT EXECUTE ON FUNCTION warm_skus(integer, integer) TO wms_app;
