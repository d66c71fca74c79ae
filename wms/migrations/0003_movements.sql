-- What the service calls: one function per endpoint, so that the tenant, the checks and the change travel in one round
-- trip and one transaction, and their plans stay cached in the session although the pooler forbids prepared statements.
-- They run with the rights of the caller: row-level security applies inside them.

CREATE TABLE idempotency_keys (
    tenant_id    bigint NOT NULL REFERENCES tenants,
    key          text NOT NULL CHECK (length(key) BETWEEN 1 AND 128),
    request_hash bytea NOT NULL CHECK (length(request_hash) = 32),
    answer       jsonb NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, key)
);
CREATE INDEX idempotency_keys_created ON idempotency_keys USING brin (created_at);
ALTER TABLE idempotency_keys ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON idempotency_keys USING (tenant_id = current_tenant());
GRANT SELECT, INSERT, UPDATE ON idempotency_keys TO wms_app;

-- Forgets keys older than 24 hours, at most p_limit; returns how many. For every tenant, so it runs as the owner; it
-- skips what others have locked, so that two callers never wait for each other.
CREATE FUNCTION forget_idempotency_keys(p_limit integer) RETURNS integer
    LANGUAGE sql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
    WITH old AS (
        SELECT tenant_id, key FROM public.idempotency_keys
        WHERE created_at < now() - interval '24 hours' LIMIT p_limit FOR UPDATE SKIP LOCKED
    ), gone AS (
        DELETE FROM public.idempotency_keys k USING old
        WHERE k.tenant_id = old.tenant_id AND k.key = old.key RETURNING 1
    )
    SELECT count(*)::integer FROM gone
    $$;
REVOKE ALL ON FUNCTION forget_idempotency_keys(integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION forget_idempotency_keys(integer) TO wms_app;

-- The active balances of one SKU in one warehouse, by location.
CREATE FUNCTION stock_lookup(p_tenant bigint, p_warehouse bigint, p_sku text)
    RETURNS TABLE (location text, on_hand bigint, updated_at timestamptz)
    LANGUAGE plpgsql VOLATILE
    AS $$
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant::text, true);
    RETURN QUERY
        SELECT l.code, m.on_hand, m.updated_at
        FROM skus s
        JOIN inventory_master m ON m.tenant_id = s.tenant_id AND m.warehouse_id = p_warehouse
            AND m.sku_id = s.sku_id AND m.status = 'ACTIVE'
        JOIN locations l ON l.tenant_id = m.tenant_id AND l.warehouse_id = m.warehouse_id
            AND l.location_id = m.location_id
        WHERE s.tenant_id = p_tenant AND s.code = p_sku
        ORDER BY m.location_id;
END $$;

-- One SKU over all warehouses of the tenant: a row per warehouse that has a balance, or one row with a NULL warehouse
-- when there is none; no row when the SKU does not exist.
CREATE FUNCTION stock_totals(p_tenant bigint, p_sku text)
    RETURNS TABLE (name text, warehouse_id bigint, warehouse text, on_hand bigint, locations bigint)
    LANGUAGE plpgsql VOLATILE
    AS $$
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant::text, true);
    RETURN QUERY
        SELECT s.name, t.warehouse_id, t.code, t.on_hand, t.locations
        FROM skus s
        LEFT JOIN LATERAL (
            SELECT w.warehouse_id, w.code, sum(m.on_hand)::bigint AS on_hand, count(*) AS locations
            FROM warehouses w
            JOIN inventory_master m ON m.tenant_id = w.tenant_id AND m.warehouse_id = w.warehouse_id
                AND m.sku_id = s.sku_id AND m.status = 'ACTIVE'
            WHERE w.tenant_id = s.tenant_id
            GROUP BY w.warehouse_id, w.code
        ) t ON true
        WHERE s.tenant_id = p_tenant AND s.code = p_sku
        ORDER BY t.warehouse_id;
END $$;

-- Posts one movement: the balances change and one ledger row is written, or nothing happens.
--
-- p_from and p_to are location codes; a receipt has only p_to, an issue only p_from, an adjustment one of them, a
-- transfer both. outcome is one of
--   posted             done; answer is {"id", "posted_at", "from_on_hand", "to_on_hand"}
--   replayed           this key was posted before with the same request; answer is the one given then
--   key_reused         this key was used for another request
--   in_flight          another transaction is at work on this key
--   unknown_warehouse, unknown_sku, unknown_from, unknown_to
--   blocked            a balance is not ACTIVE
--   insufficient       answer is {"on_hand"}: less than p_quantity
-- A refused movement keeps no key: nothing happened, and the same key may succeed later.
CREATE FUNCTION post_movement(
    p_tenant bigint, p_key text, p_hash bytea, p_warehouse bigint, p_sku text,
    p_kind text, p_from text, p_to text, p_quantity bigint, p_reference text,
    OUT outcome text, OUT answer text
)
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    v_key    idempotency_keys%ROWTYPE;
    v_sku    bigint;
    v_from   bigint;
    v_to     bigint;
    v_source inventory_master%ROWTYPE;
    v_from_on_hand bigint;
    v_to_on_hand   bigint;
    v_id     bigint;
    v_answer jsonb;
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant::text, true);

    -- Held until the commit is visible to others, so whoever gets it next also sees the stored answer.
    IF NOT pg_try_advisory_xact_lock(hashtextextended(p_key, p_tenant)) THEN
        outcome := 'in_flight';
        RETURN;
    END IF;
    SELECT * INTO v_key FROM idempotency_keys k
        WHERE k.tenant_id = p_tenant AND k.key = p_key AND k.created_at > now() - interval '24 hours';
    IF FOUND THEN
        IF v_key.request_hash = p_hash THEN
            outcome := 'replayed';
            answer := v_key.answer::text;
        ELSE
            outcome := 'key_reused';
        END IF;
        RETURN;
    END IF;

    SELECT s.sku_id INTO v_sku FROM skus s WHERE s.tenant_id = p_tenant AND s.code = p_sku;
    IF v_sku IS NULL THEN
        outcome := 'unknown_sku';
        RETURN;
    END IF;
    IF p_from IS NOT NULL THEN
        SELECT l.location_id INTO v_from FROM locations l
            WHERE l.tenant_id = p_tenant AND l.warehouse_id = p_warehouse AND l.code = p_from;
    END IF;
    IF p_to IS NOT NULL THEN
        SELECT l.location_id INTO v_to FROM locations l
            WHERE l.tenant_id = p_tenant AND l.warehouse_id = p_warehouse AND l.code = p_to;
    END IF;
    IF (p_from IS NOT NULL AND v_from IS NULL) OR (p_to IS NOT NULL AND v_to IS NULL) THEN
        outcome := CASE
            WHEN NOT EXISTS (SELECT FROM warehouses w WHERE w.tenant_id = p_tenant AND w.warehouse_id = p_warehouse)
                THEN 'unknown_warehouse'
            WHEN p_from IS NOT NULL AND v_from IS NULL THEN 'unknown_from'
            ELSE 'unknown_to' END;
        RETURN;
    END IF;

    -- A transfer touches two rows. Its target row is created before anything is locked, and then both are locked in
    -- the order of their ids: no two transfers can wait for each other.
    IF v_from IS NOT NULL AND v_to IS NOT NULL THEN
        IF EXISTS (SELECT FROM inventory_master m
                WHERE m.tenant_id = p_tenant AND m.warehouse_id = p_warehouse AND m.sku_id = v_sku
                AND m.location_id = v_from AND m.on_hand >= p_quantity)
            AND NOT EXISTS (SELECT FROM inventory_master m
                WHERE m.tenant_id = p_tenant AND m.warehouse_id = p_warehouse AND m.sku_id = v_sku
                AND m.location_id = v_to) THEN
            INSERT INTO inventory_master (tenant_id, warehouse_id, sku_id, location_id, on_hand)
                VALUES (p_tenant, p_warehouse, v_sku, v_to, 0) ON CONFLICT DO NOTHING;
        END IF;
        PERFORM FROM inventory_master m
            WHERE m.tenant_id = p_tenant AND m.warehouse_id = p_warehouse AND m.sku_id = v_sku
            AND m.location_id IN (v_from, v_to)
            ORDER BY m.location_id FOR NO KEY UPDATE;
        IF EXISTS (SELECT FROM inventory_master m
                WHERE m.tenant_id = p_tenant AND m.warehouse_id = p_warehouse AND m.sku_id = v_sku
                AND m.location_id = v_to AND m.status <> 'ACTIVE') THEN
            outcome := 'blocked';
            RETURN;
        END IF;
    END IF;

    -- The condition is checked again on the row's newest version after waiting for its lock: never negative.
    IF v_from IS NOT NULL THEN
        UPDATE inventory_master m SET on_hand = m.on_hand - p_quantity, updated_at = now()
            WHERE m.tenant_id = p_tenant AND m.warehouse_id = p_warehouse AND m.sku_id = v_sku
            AND m.location_id = v_from AND m.status = 'ACTIVE' AND m.on_hand >= p_quantity
            RETURNING m.on_hand INTO v_from_on_hand;
        IF NOT FOUND THEN
            SELECT * INTO v_source FROM inventory_master m
                WHERE m.tenant_id = p_tenant AND m.warehouse_id = p_warehouse AND m.sku_id = v_sku
                AND m.location_id = v_from;
            IF v_source.status <> 'ACTIVE' THEN
                outcome := 'blocked';
            ELSE
                outcome := 'insufficient';
                answer := jsonb_build_object('on_hand', coalesce(v_source.on_hand, 0))::text;
            END IF;
            RETURN;
        END IF;
    END IF;
    IF v_to IS NOT NULL THEN
        INSERT INTO inventory_master AS m (tenant_id, warehouse_id, sku_id, location_id, on_hand)
            VALUES (p_tenant, p_warehouse, v_sku, v_to, p_quantity)
            ON CONFLICT (tenant_id, warehouse_id, sku_id, location_id)
            DO UPDATE SET on_hand = m.on_hand + p_quantity, updated_at = now() WHERE m.status = 'ACTIVE'
            RETURNING m.on_hand INTO v_to_on_hand;
        IF NOT FOUND THEN
            -- The source of a transfer has been taken from by now: only an error undoes that.
            IF v_from IS NOT NULL THEN
                RAISE EXCEPTION 'the target of a transfer changed' USING ERRCODE = 'serialization_failure';
            END IF;
            outcome := 'blocked';
            RETURN;
        END IF;
    END IF;

    INSERT INTO inventory_transactions AS t
        (tenant_id, warehouse_id, sku_id, kind, from_location_id, to_location_id, quantity, reference)
        VALUES (p_tenant, p_warehouse, v_sku, p_kind, v_from, v_to, p_quantity, p_reference)
        RETURNING t.transaction_id INTO v_id;
    v_answer := jsonb_build_object(
        'id', v_id, 'posted_at', now(), 'from_on_hand', v_from_on_hand, 'to_on_hand', v_to_on_hand);
    -- Only an expired key can be in the way here.
    INSERT INTO idempotency_keys AS k (tenant_id, key, request_hash, answer)
        VALUES (p_tenant, p_key, p_hash, v_answer)
        ON CONFLICT (tenant_id, key) DO UPDATE
        SET request_hash = excluded.request_hash, answer = excluded.answer, created_at = now();
    outcome := 'posted';
    answer := v_answer::text;
END $$;

REVOKE ALL ON FUNCTION stock_lookup(bigint, bigint, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION stock_totals(bigint, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION post_movement(bigint, text, bytea, bigint, text, text, text, text, bigint, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION stock_lookup(bigint, bigint, text) TO wms_app;
GRANT EXECUTE ON FUNCTION stock_totals(bigint, text) TO wms_app;
GRANT EXECUTE ON FUNCTION post_movement(bigint, text, bytea, bigint, text, text, text, text, bigint, text) TO wms_app;
