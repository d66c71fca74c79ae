-- Events tell their transactions: what a write has left in the cache itself (write-through) is known by it, and need not
-- go when its event comes.

-- One turn of the relay, as in 0008; new is the xid of each event.
CREATE OR REPLACE FUNCTION relay_turn(
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
            extract(epoch FROM o.occurred_at) AS occurred_at, o.xid::text::bigint AS xid
        FROM public.outbox o WHERE o.sequence > p_after ORDER BY o.sequence LIMIT p_limit
    ) e;
    -- What this transaction sees was flushed before it became visible.
    lsn := pg_current_wal_flush_lsn()::text;
END $$;
