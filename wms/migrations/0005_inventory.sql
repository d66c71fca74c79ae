-- Stock: movements that respect reservations, the search of SKUs, the ledger's pages, capacity, receipts, and the
-- balances that archived months leave behind.
--
-- As in 0003, one function per endpoint, with the rights of the caller. skus_matching is the exception, and says why.

-- Moves units of one SKU: the core of every change of stock, called by functions that have set the tenant and looked
-- up the ids. One ledger row and one event, or nothing.
--
-- p_from and p_to are location ids, shaped as in inventory_transactions. p_release lowers the source's reservation by
-- as many units in the same change: a confirmed pick takes what was promised to its order. Units that stay reserved
-- for others are not to be moved. outcome is one of
--   posted         done; from_on_hand and to_on_hand are the balances after it
--   insufficient   from_on_hand is what is free at the source: less than p_quantity
--   blocked        a balance is not ACTIVE
-- Who moves several balances in one transaction calls it in the order of (sku_id, location_id).
CREATE FUNCTION move_stock(
    p_tenant bigint, p_warehouse bigint, p_sku_id bigint, p_kind text, p_from bigint, p_to bigint,
    p_quantity bigint, p_reference text, p_release bigint DEFAULT 0,
    OUT outcome text, OUT transaction_id bigint, OUT from_on_hand bigint, OUT to_on_hand bigint
)
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    v_source inventory_master%ROWTYPE;
BEGIN
    -- A transfer touches two rows. Its target row is created before anything is locked, and then both are locked in
    -- the order of their ids: no two transfers can wait for each other.
    IF p_from IS NOT NULL AND p_to IS NOT NULL THEN
        IF EXISTS (SELECT FROM inventory_master m
                WHERE m.tenant_id = p_tenant AND m.warehouse_id = p_warehouse AND m.sku_id = p_sku_id
                AND m.location_id = p_from AND m.on_hand - m.reserved + p_release >= p_quantity)
            AND NOT EXISTS (SELECT FROM inventory_master m
                WHERE m.tenant_id = p_tenant AND m.warehouse_id = p_warehouse AND m.sku_id = p_sku_id
                AND m.location_id = p_to) THEN
            INSERT INTO inventory_master (tenant_id, warehouse_id, sku_id, location_id, on_hand)
                VALUES (p_tenant, p_warehouse, p_sku_id, p_to, 0) ON CONFLICT DO NOTHING;
        END IF;
        PERFORM FROM inventory_master m
            WHERE m.tenant_id = p_tenant AND m.warehouse_id = p_warehouse AND m.sku_id = p_sku_id
            AND m.location_id IN (p_from, p_to)
            ORDER BY m.location_id FOR NO KEY UPDATE;
        IF EXISTS (SELECT FROM inventory_master m
                WHERE m.tenant_id = p_tenant AND m.warehouse_id = p_warehouse AND m.sku_id = p_sku_id
                AND m.location_id = p_to AND m.status <> 'ACTIVE') THEN
            outcome := 'blocked';
            RETURN;
        END IF;
    END IF;

    -- The condition is checked again on the row's newest version after waiting for its lock: never negative.
    IF p_from IS NOT NULL THEN
        UPDATE inventory_master m
            SET on_hand = m.on_hand - p_quantity, reserved = m.reserved - p_release, updated_at = now()
            WHERE m.tenant_id = p_tenant AND m.warehouse_id = p_warehouse AND m.sku_id = p_sku_id
            AND m.location_id = p_from AND m.status = 'ACTIVE'
            AND m.on_hand - m.reserved + p_release >= p_quantity
            RETURNING m.on_hand INTO from_on_hand;
        IF NOT FOUND THEN
            SELECT * INTO v_source FROM inventory_master m
                WHERE m.tenant_id = p_tenant AND m.warehouse_id = p_warehouse AND m.sku_id = p_sku_id
                AND m.location_id = p_from;
            IF v_source.status <> 'ACTIVE' THEN
                outcome := 'blocked';
            ELSE
                outcome := 'insufficient';
                from_on_hand := coalesce(v_source.on_hand - v_source.reserved + p_release, 0);
            END IF;
            RETURN;
        END IF;
    END IF;
    IF p_to IS NOT NULL THEN
        INSERT INTO inventory_master AS m (tenant_id, warehouse_id, sku_id, location_id, on_hand)
            VALUES (p_tenant, p_warehouse, p_sku_id, p_to, p_quantity)
            ON CONFLICT (tenant_id, warehouse_id, sku_id, location_id)
            DO UPDATE SET on_hand = m.on_hand + p_quantity, updated_at = now() WHERE m.status = 'ACTIVE'
            RETURNING m.on_hand INTO to_on_hand;
        IF NOT FOUND THEN
            -- The source of a transfer has been taken from by now: only an error undoes that.
            IF p_from IS NOT NULL THEN
                RAISE EXCEPTION 'the target of a transfer changed' USING ERRCODE = 'serialization_failure';
            END IF;
            outcome := 'blocked';
            RETURN;
        END IF;
    END IF;

    INSERT INTO inventory_transactions AS t
        (tenant_id, warehouse_id, sku_id, kind, from_location_id, to_location_id, quantity, reference)
        VALUES (p_tenant, p_warehouse, p_sku_id, p_kind, p_from, p_to, p_quantity, p_reference)
        RETURNING t.transaction_id INTO transaction_id;
    PERFORM emit_event(p_tenant, 'stock.moved', 'sku', s.code, jsonb_build_object(
            'transaction_id', move_stock.transaction_id, 'warehouse_id', p_warehouse, 'kind', p_kind,
            'quantity', p_quantity))
        FROM skus s WHERE s.tenant_id = p_tenant AND s.sku_id = p_sku_id;
    outcome := 'posted';
END $$;

-- Posts one movement: the balances change and one ledger row is written, or nothing happens. As described in 0003;
-- new is that reserved units stay where they are: the on_hand that comes with `insufficient` is what is free.
CREATE OR REPLACE FUNCTION post_movement(
    p_tenant bigint, p_key text, p_hash bytea, p_warehouse bigint, p_sku text,
    p_kind text, p_from text, p_to text, p_quantity bigint, p_reference text,
    OUT outcome text, OUT answer text
)
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    v_sku    bigint;
    v_from   bigint;
    v_to     bigint;
    v_moved  record;
    v_answer jsonb;
BEGIN
    SELECT c.outcome, c.answer INTO outcome, answer FROM claim_key(p_tenant, p_key, p_hash) c;
    IF outcome IS NOT NULL THEN
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

    SELECT * INTO v_moved
        FROM move_stock(p_tenant, p_warehouse, v_sku, p_kind, v_from, v_to, p_quantity, p_reference);
    outcome := v_moved.outcome;
    IF outcome = 'insufficient' THEN
        answer := jsonb_build_object('on_hand', v_moved.from_on_hand)::text;
    ELSIF outcome = 'posted' THEN
        v_answer := jsonb_build_object('id', v_moved.transaction_id, 'posted_at', now(),
            'from_on_hand', v_moved.from_on_hand, 'to_on_hand', v_moved.to_on_hand);
        PERFORM keep_answer(p_tenant, p_key, p_hash, v_answer);
        answer := v_answer::text;
    END IF;
END $$;

-- Both gain a column, which needs a new function; a release that does not ask for the column goes on as before.
DROP FUNCTION stock_lookup(bigint, bigint, text);
CREATE FUNCTION stock_lookup(p_tenant bigint, p_warehouse bigint, p_sku text)
    RETURNS TABLE (location text, on_hand bigint, updated_at timestamptz, reserved bigint)
    LANGUAGE plpgsql VOLATILE
    AS $$
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant::text, true);
    RETURN QUERY
        SELECT l.code, m.on_hand, m.updated_at, m.reserved
        FROM skus s
        JOIN inventory_master m ON m.tenant_id = s.tenant_id AND m.warehouse_id = p_warehouse
            AND m.sku_id = s.sku_id AND m.status = 'ACTIVE'
        JOIN locations l ON l.tenant_id = m.tenant_id AND l.warehouse_id = m.warehouse_id
            AND l.location_id = m.location_id
        WHERE s.tenant_id = p_tenant AND s.code = p_sku
        ORDER BY m.location_id;
END $$;

DROP FUNCTION stock_totals(bigint, text);
CREATE FUNCTION stock_totals(p_tenant bigint, p_sku text)
    RETURNS TABLE (
        name text, warehouse_id bigint, warehouse text, on_hand bigint, locations bigint, reserved bigint
    )
    LANGUAGE plpgsql VOLATILE
    AS $$
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant::text, true);
    RETURN QUERY
        SELECT s.name, t.warehouse_id, t.code, t.on_hand, t.locations, t.reserved
        FROM skus s
        LEFT JOIN LATERAL (
            SELECT w.warehouse_id, w.code, sum(m.on_hand)::bigint AS on_hand, count(*) AS locations,
                sum(m.reserved)::bigint AS reserved
            FROM warehouses w
            JOIN inventory_master m ON m.tenant_id = w.tenant_id AND m.warehouse_id = w.warehouse_id
                AND m.sku_id = s.sku_id AND m.status = 'ACTIVE'
            WHERE w.tenant_id = s.tenant_id
            GROUP BY w.warehouse_id, w.code
        ) t ON true
        WHERE s.tenant_id = p_tenant AND s.code = p_sku
        ORDER BY t.warehouse_id;
END $$;

-- The letters of Portuguese without their accents, as people type them on a handheld. In SQL so that it may stand in
-- an index; the extension unaccent may not (it is STABLE: its rules are a file).
CREATE FUNCTION fold_accents(p_text text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    AS $$ SELECT translate(p_text, 'ÁÀÂÃÄÉÈÊËÍÌÎÏÓÒÔÕÖÚÙÛÜÇÑáàâãäéèêëíìîïóòôõöúùûüçñ',
        'AAAAAEEEEIIIIOOOOOUUUUCNaaaaaeeeeiiiiooooouuuucn') $$;

-- The SKUs of the tenant that a search in Portuguese finds, by code, after p_after.
--
-- It runs as the owner because the operator @@ is not leakproof: under row-level security the planner may not ask the
-- index with it before it has asked the policy of every row, and reads them all. So the policy is written out here:
-- only rows of the tenant that the transaction has named, none when it has named none. A word that most names have is
-- found faster along the codes, a rare one by the index: the plan is made for each search.
CREATE FUNCTION skus_matching(p_query text, p_class text, p_after text, p_limit integer)
    RETURNS TABLE (
        code text, name text, barcode text, unit text, weight_g integer, abc_class text, image text,
        updated_at timestamptz
    )
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = force_custom_plan
    AS $$
DECLARE
    v_tenant bigint := public.current_tenant();
    v_exact  tsquery := websearch_to_tsquery('portuguese', p_query);
    v_folded tsquery := websearch_to_tsquery('portuguese', public.fold_accents(p_query));
BEGIN
    RETURN QUERY
        SELECT s.code, s.name, s.barcode, s.unit, s.weight_g, s.abc_class, s.image, s.updated_at
        FROM public.skus s
        WHERE s.tenant_id = v_tenant
            AND (to_tsvector('portuguese', s.name) @@ v_exact
                OR to_tsvector('portuguese', public.fold_accents(s.name)) @@ v_folded)
            AND (p_class IS NULL OR s.abc_class = p_class)
            AND (p_after IS NULL OR s.code > p_after)
        ORDER BY s.code
        LIMIT p_limit;
END $$;

-- A page of SKUs by code, after p_after: all, of one ABC class, or those that a search finds.
CREATE FUNCTION skus_page(p_tenant bigint, p_query text, p_class text, p_after text, p_limit integer)
    RETURNS TABLE (
        code text, name text, barcode text, unit text, weight_g integer, abc_class text, image text,
        updated_at timestamptz
    )
    LANGUAGE plpgsql VOLATILE
    AS $$
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant::text, true);
    IF p_query IS NOT NULL THEN
        RETURN QUERY SELECT * FROM skus_matching(p_query, p_class, p_after, p_limit);
    ELSE
        RETURN QUERY
            SELECT s.code, s.name, s.barcode, s.unit, s.weight_g, s.abc_class, s.image, s.updated_at
            FROM skus s
            WHERE s.tenant_id = p_tenant AND s.code > coalesce(p_after, '')
                AND (p_class IS NULL OR s.abc_class = p_class)
            ORDER BY s.code
            LIMIT p_limit;
    END IF;
END $$;

-- One SKU by its code; no row when there is none.
CREATE FUNCTION sku_lookup(p_tenant bigint, p_sku text)
    RETURNS TABLE (
        code text, name text, barcode text, unit text, weight_g integer, abc_class text, image text,
        updated_at timestamptz
    )
    LANGUAGE plpgsql VOLATILE
    AS $$
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant::text, true);
    RETURN QUERY
        SELECT s.code, s.name, s.barcode, s.unit, s.weight_g, s.abc_class, s.image, s.updated_at
        FROM skus s WHERE s.tenant_id = p_tenant AND s.code = p_sku;
END $$;

-- The warehouses of the tenant, by code.
CREATE FUNCTION warehouses_page(p_tenant bigint, p_after text, p_limit integer)
    RETURNS TABLE (warehouse_id bigint, code text, name text)
    LANGUAGE plpgsql VOLATILE
    AS $$
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant::text, true);
    RETURN QUERY
        SELECT w.warehouse_id, w.code, w.name FROM warehouses w
        WHERE w.tenant_id = p_tenant AND w.code > coalesce(p_after, '')
        ORDER BY w.code
        LIMIT p_limit;
END $$;

-- How full a warehouse is; no row when there is none. capacity is that of the measured locations, NULL when none is,
-- measured what they hold of on_hand, which counts every unit in the warehouse, blocked ones too: they take up space.
CREATE FUNCTION warehouse_capacity(p_tenant bigint, p_warehouse bigint)
    RETURNS TABLE (code text, locations bigint, capacity bigint, on_hand bigint, measured bigint)
    LANGUAGE plpgsql VOLATILE
    AS $$
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant::text, true);
    RETURN QUERY
        SELECT w.code, f.locations, f.capacity, f.on_hand, f.measured
        FROM warehouses w
        CROSS JOIN LATERAL (
            SELECT count(*) AS locations, sum(l.capacity)::bigint AS capacity,
                coalesce(sum(m.units), 0)::bigint AS on_hand,
                coalesce(sum(m.units) FILTER (WHERE l.capacity IS NOT NULL), 0)::bigint AS measured
            FROM locations l
            LEFT JOIN (
                SELECT i.location_id, sum(i.on_hand) AS units FROM inventory_master i
                WHERE i.tenant_id = p_tenant AND i.warehouse_id = p_warehouse
                GROUP BY i.location_id
            ) m ON m.location_id = l.location_id
            WHERE l.tenant_id = p_tenant AND l.warehouse_id = p_warehouse
        ) f
        WHERE w.tenant_id = p_tenant AND w.warehouse_id = p_warehouse;
END $$;

-- A page of the locations of a warehouse, by code.
CREATE FUNCTION locations_page(p_tenant bigint, p_warehouse bigint, p_after text, p_limit integer)
    RETURNS TABLE (code text, aisle text, level integer, "position" integer, capacity bigint)
    LANGUAGE plpgsql VOLATILE
    AS $$
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant::text, true);
    RETURN QUERY
        SELECT l.code, l.aisle, l.level, l.position, l.capacity FROM locations l
        WHERE l.tenant_id = p_tenant AND l.warehouse_id = p_warehouse AND l.code > coalesce(p_after, '')
        ORDER BY l.code
        LIMIT p_limit;
END $$;

-- A page of the ledger of a warehouse, of one SKU or all, the last posted first, below the id p_after. Ids are given
-- in the order of posting, over all partitions, so the months' indexes are merged and each is read no further than
-- the page. Names are looked up for the rows of the page only.
CREATE FUNCTION movements_page(p_tenant bigint, p_warehouse bigint, p_sku text, p_after bigint, p_limit integer)
    RETURNS TABLE (
        transaction_id bigint, created_at timestamptz, kind text, sku text, from_location text, to_location text,
        quantity bigint, reference text
    )
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    v_sku   bigint;
    v_below bigint := coalesce(p_after, 9223372036854775807);
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant::text, true);
    IF p_sku IS NOT NULL THEN
        SELECT s.sku_id INTO v_sku FROM skus s WHERE s.tenant_id = p_tenant AND s.code = p_sku;
        IF v_sku IS NULL THEN
            RETURN;
        END IF;
        RETURN QUERY
            SELECT t.transaction_id, t.created_at, t.kind, p_sku, a.code, b.code, t.quantity, t.reference
            FROM (
                SELECT * FROM inventory_transactions i
                WHERE i.tenant_id = p_tenant AND i.warehouse_id = p_warehouse AND i.sku_id = v_sku
                    AND i.transaction_id < v_below
                ORDER BY i.transaction_id DESC LIMIT p_limit
            ) t
            LEFT JOIN locations a ON a.tenant_id = p_tenant AND a.warehouse_id = p_warehouse
                AND a.location_id = t.from_location_id
            LEFT JOIN locations b ON b.tenant_id = p_tenant AND b.warehouse_id = p_warehouse
                AND b.location_id = t.to_location_id
            ORDER BY t.transaction_id DESC;
    ELSE
        RETURN QUERY
            SELECT t.transaction_id, t.created_at, t.kind, s.code, a.code, b.code, t.quantity, t.reference
            FROM (
                SELECT * FROM inventory_transactions i
                WHERE i.tenant_id = p_tenant AND i.warehouse_id = p_warehouse AND i.transaction_id < v_below
                ORDER BY i.transaction_id DESC LIMIT p_limit
            ) t
            JOIN skus s ON s.tenant_id = p_tenant AND s.sku_id = t.sku_id
            LEFT JOIN locations a ON a.tenant_id = p_tenant AND a.warehouse_id = p_warehouse
                AND a.location_id = t.from_location_id
            LEFT JOIN locations b ON b.tenant_id = p_tenant AND b.warehouse_id = p_warehouse
                AND b.location_id = t.to_location_id
            ORDER BY t.transaction_id DESC;
    END IF;
END $$;

-- What an archived month leaves behind: the net flow of each balance that moved in it, so that the ledger still sums to
-- the stock once the month's rows are elsewhere. A row whose flow is 0 is kept as well: it says that this month of this
-- balance is accounted for here, and no longer in the ledger, even while both are there.
CREATE TABLE carried_balances (
    tenant_id    bigint NOT NULL,
    warehouse_id bigint NOT NULL,
    sku_id       bigint NOT NULL,
    location_id  bigint NOT NULL,
    -- Its first day, of UTC.
    month        date NOT NULL CHECK (extract(day FROM month) = 1),
    quantity     bigint NOT NULL,
    PRIMARY KEY (tenant_id, warehouse_id, sku_id, location_id, month)
);
ALTER TABLE carried_balances ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON carried_balances USING (tenant_id = current_tenant());
GRANT SELECT ON carried_balances TO wms_app;

-- Writes the carried balances of one month, for every tenant; returns how many. To be run by the owner before the month
-- is detached, any number of times: the rows of the month replace earlier ones. A month that is not over, or whose last
-- transactions may still be running, is refused.
CREATE FUNCTION carry_forward(p_month date) RETURNS bigint
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    v_month date := date_trunc('month', p_month::timestamp)::date;
    v_start timestamptz := v_month::timestamp AT TIME ZONE 'UTC';
    v_end   timestamptz := (v_month + interval '1 month') AT TIME ZONE 'UTC';
    v_rows  bigint;
BEGIN
    IF v_end + interval '1 day' > now() THEN
        RAISE EXCEPTION 'month % is not over for a day yet: carry it forward later', to_char(v_month, 'YYYY-MM')
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    DELETE FROM carried_balances c WHERE c.month = v_month AND EXISTS (
        SELECT FROM inventory_transactions t WHERE t.created_at >= v_start AND t.created_at < v_end);
    INSERT INTO carried_balances AS c (tenant_id, warehouse_id, sku_id, location_id, month, quantity)
        SELECT t.tenant_id, t.warehouse_id, t.sku_id, f.location_id, v_month, sum(f.units)
        FROM inventory_transactions t
        CROSS JOIN LATERAL (VALUES (t.to_location_id, t.quantity), (t.from_location_id, -t.quantity))
            AS f (location_id, units)
        WHERE t.created_at >= v_start AND t.created_at < v_end AND f.location_id IS NOT NULL
        GROUP BY t.tenant_id, t.warehouse_id, t.sku_id, f.location_id;
    GET DIAGNOSTICS v_rows = ROW_COUNT;
    RETURN v_rows;
END $$;

-- The balances whose ledger and carried balances do not sum to what is on hand: no rows is what must be. One
-- snapshot. The owner sees all tenants, and may ask for one (or one warehouse of it); others see their own.
CREATE FUNCTION ledger_differences(p_tenant bigint DEFAULT NULL, p_warehouse bigint DEFAULT NULL)
    RETURNS TABLE (
        tenant_id bigint, warehouse_id bigint, sku_id bigint, location_id bigint, on_hand bigint, ledger bigint,
        carried bigint
    )
    LANGUAGE sql STABLE
    AS $$
    WITH flow AS (
        SELECT t.tenant_id, t.warehouse_id, t.sku_id, f.location_id, f.units,
            date_trunc('month', t.created_at AT TIME ZONE 'UTC')::date AS month
        FROM inventory_transactions t
        CROSS JOIN LATERAL (VALUES (t.to_location_id, t.quantity), (t.from_location_id, -t.quantity))
            AS f (location_id, units)
        WHERE f.location_id IS NOT NULL AND (p_tenant IS NULL OR t.tenant_id = p_tenant)
            AND (p_warehouse IS NULL OR t.warehouse_id = p_warehouse)
    ), posted AS (
        SELECT f.tenant_id, f.warehouse_id, f.sku_id, f.location_id, sum(f.units)::bigint AS units
        FROM flow f
        WHERE NOT EXISTS (
            SELECT FROM carried_balances c
            WHERE c.tenant_id = f.tenant_id AND c.warehouse_id = f.warehouse_id AND c.sku_id = f.sku_id
                AND c.location_id = f.location_id AND c.month = f.month)
        GROUP BY 1, 2, 3, 4
    ), carried AS (
        SELECT c.tenant_id, c.warehouse_id, c.sku_id, c.location_id, sum(c.quantity)::bigint AS units
        FROM carried_balances c
        WHERE (p_tenant IS NULL OR c.tenant_id = p_tenant) AND (p_warehouse IS NULL OR c.warehouse_id = p_warehouse)
        GROUP BY 1, 2, 3, 4
    ), held AS (
        SELECT m.tenant_id, m.warehouse_id, m.sku_id, m.location_id, m.on_hand FROM inventory_master m
        WHERE (p_tenant IS NULL OR m.tenant_id = p_tenant) AND (p_warehouse IS NULL OR m.warehouse_id = p_warehouse)
    )
    SELECT tenant_id, warehouse_id, sku_id, location_id, coalesce(h.on_hand, 0), coalesce(p.units, 0),
        coalesce(c.units, 0)
    FROM held h
    FULL JOIN posted p USING (tenant_id, warehouse_id, sku_id, location_id)
    FULL JOIN carried c USING (tenant_id, warehouse_id, sku_id, location_id)
    WHERE coalesce(h.on_hand, 0) <> coalesce(p.units, 0) + coalesce(c.units, 0)
    $$;

-- Receipts: what a supplier announced, and what came of it.
--
-- EXPECTED –receive→ RECEIVING –close→ RECEIVED; EXPECTED –cancel→ CANCELLED; receive repeats. Once units are in stock a
-- receipt is not cancelled but closed: what came is what came. The table is in wms/domain/receipts.py.
CREATE INDEX receipts_status ON receipts (tenant_id, warehouse_id, status, receipt_id);

-- A receipt with its lines, as the API gives it; NULL when there is none.
CREATE FUNCTION receipt_document(p_tenant bigint, p_warehouse bigint, p_receipt bigint) RETURNS jsonb
    LANGUAGE sql STABLE
    AS $$
    SELECT jsonb_build_object(
        'id', r.receipt_id, 'warehouse_id', r.warehouse_id, 'receipt_number', r.receipt_number,
        'supplier', r.supplier, 'status', r.status,
        'created_at', to_char(r.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        'updated_at', to_char(r.updated_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        'lines', (
            SELECT coalesce(jsonb_agg(jsonb_build_object('line_number', l.line_number, 'sku', s.code,
                'expected', l.expected, 'received', l.received) ORDER BY l.line_number), '[]')
            FROM receipt_lines l JOIN skus s ON s.tenant_id = l.tenant_id AND s.sku_id = l.sku_id
            WHERE l.tenant_id = r.tenant_id AND l.warehouse_id = r.warehouse_id AND l.receipt_id = r.receipt_id
        ))
    FROM receipts r
    WHERE r.tenant_id = p_tenant AND r.warehouse_id = p_warehouse AND r.receipt_id = p_receipt
    $$;

CREATE FUNCTION receipt_lookup(p_tenant bigint, p_warehouse bigint, p_receipt bigint) RETURNS text
    LANGUAGE plpgsql VOLATILE
    AS $$
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant::text, true);
    RETURN receipt_document(p_tenant, p_warehouse, p_receipt)::text;
END $$;

-- A page of the receipts of a warehouse, in one state or in any, the newest first, below the id p_after.
CREATE FUNCTION receipts_page(p_tenant bigint, p_warehouse bigint, p_status text, p_after bigint, p_limit integer)
    RETURNS TABLE (
        receipt_id bigint, receipt_number text, supplier text, status text, created_at timestamptz,
        updated_at timestamptz
    )
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    v_below bigint := coalesce(p_after, 9223372036854775807);
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant::text, true);
    IF p_status IS NOT NULL THEN
        RETURN QUERY
            SELECT r.receipt_id, r.receipt_number, r.supplier, r.status, r.created_at, r.updated_at FROM receipts r
            WHERE r.tenant_id = p_tenant AND r.warehouse_id = p_warehouse AND r.status = p_status
                AND r.receipt_id < v_below
            ORDER BY r.receipt_id DESC LIMIT p_limit;
    ELSE
        RETURN QUERY
            SELECT r.receipt_id, r.receipt_number, r.supplier, r.status, r.created_at, r.updated_at FROM receipts r
            WHERE r.tenant_id = p_tenant AND r.warehouse_id = p_warehouse AND r.receipt_id < v_below
            ORDER BY r.receipt_id DESC LIMIT p_limit;
    END IF;
END $$;

-- Announces a receipt. p_lines is [{"sku", "expected"}, …], numbered from 1 in this order. outcome is done (answer:
-- the receipt) or, beside those of claim_key, unknown_warehouse, unknown_sku (answer: {"skus": […]}), number_taken.
CREATE FUNCTION create_receipt(
    p_tenant bigint, p_key text, p_hash bytea, p_warehouse bigint, p_number text, p_supplier text, p_lines jsonb,
    OUT outcome text, OUT answer text
)
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    v_unknown jsonb;
    v_receipt bigint;
    v_answer  jsonb;
BEGIN
    SELECT c.outcome, c.answer INTO outcome, answer FROM claim_key(p_tenant, p_key, p_hash) c;
    IF outcome IS NOT NULL THEN
        RETURN;
    END IF;
    IF NOT EXISTS (SELECT FROM warehouses w WHERE w.tenant_id = p_tenant AND w.warehouse_id = p_warehouse) THEN
        outcome := 'unknown_warehouse';
        RETURN;
    END IF;
    SELECT jsonb_agg(DISTINCT a.sku) INTO v_unknown FROM jsonb_to_recordset(p_lines) AS a (sku text)
        WHERE NOT EXISTS (SELECT FROM skus s WHERE s.tenant_id = p_tenant AND s.code = a.sku);
    IF v_unknown IS NOT NULL THEN
        outcome := 'unknown_sku';
        answer := jsonb_build_object('skus', v_unknown)::text;
        RETURN;
    END IF;
    INSERT INTO receipts AS r (tenant_id, warehouse_id, receipt_number, supplier)
        VALUES (p_tenant, p_warehouse, p_number, p_supplier)
        ON CONFLICT (tenant_id, receipt_number) DO NOTHING
        RETURNING r.receipt_id INTO v_receipt;
    IF v_receipt IS NULL THEN
        outcome := 'number_taken';
        RETURN;
    END IF;
    INSERT INTO receipt_lines (tenant_id, warehouse_id, receipt_id, line_number, sku_id, expected)
        SELECT p_tenant, p_warehouse, v_receipt, e.number, s.sku_id, (e.line ->> 'expected')::bigint
        FROM jsonb_array_elements(p_lines) WITH ORDINALITY AS e (line, number)
        JOIN skus s ON s.tenant_id = p_tenant AND s.code = e.line ->> 'sku';
    v_answer := receipt_document(p_tenant, p_warehouse, v_receipt);
    PERFORM keep_answer(p_tenant, p_key, p_hash, v_answer);
    PERFORM emit_event(p_tenant, 'receipt.created', 'receipt', v_receipt::text,
        jsonb_build_object('warehouse_id', p_warehouse));
    outcome := 'done';
    answer := v_answer::text;
END $$;

-- Books what came: p_lines is [{"line_number", "location", "quantity"}, …], in one change for all of them. A line may
-- come to several locations, and more or less may come than was expected. Each is one ledger row of the kind receipt,
-- whose reference is the receipt's number. outcome is done (answer: the receipt) or, beside those of claim_key,
--   unknown_receipt
--   illegal_move       answer is {"state"}
--   unknown_line       answer is {"line_numbers": […]}
--   unknown_location   answer is {"locations": […]}
--   blocked            answer is {"balances": ["sku at location", …]}
CREATE FUNCTION receive_lines(
    p_tenant bigint, p_key text, p_hash bytea, p_warehouse bigint, p_receipt bigint, p_lines jsonb,
    OUT outcome text, OUT answer text
)
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    v_receipt receipts%ROWTYPE;
    v_lines   smallint[];
    v_skus    bigint[];
    v_codes   text[];
    v_places  bigint[];
    v_units   bigint[];
    v_wrong   jsonb;
    v_answer  jsonb;
    v_changed bigint;
BEGIN
    SELECT c.outcome, c.answer INTO outcome, answer FROM claim_key(p_tenant, p_key, p_hash) c;
    IF outcome IS NOT NULL THEN
        RETURN;
    END IF;
    SELECT * INTO v_receipt FROM receipts r
        WHERE r.tenant_id = p_tenant AND r.warehouse_id = p_warehouse AND r.receipt_id = p_receipt
        FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        outcome := 'unknown_receipt';
        RETURN;
    ELSIF v_receipt.status NOT IN ('EXPECTED', 'RECEIVING') THEN
        outcome := 'illegal_move';
        answer := jsonb_build_object('state', v_receipt.status)::text;
        RETURN;
    END IF;

    -- The lines in the order in which balances are locked. Whoever changes the lines of a receipt holds its row.
    SELECT array_agg(a.line_number ORDER BY l.sku_id, p.location_id, a.line_number),
            array_agg(l.sku_id ORDER BY l.sku_id, p.location_id, a.line_number),
            array_agg(s.code ORDER BY l.sku_id, p.location_id, a.line_number),
            array_agg(p.location_id ORDER BY l.sku_id, p.location_id, a.line_number),
            array_agg(a.quantity ORDER BY l.sku_id, p.location_id, a.line_number),
            jsonb_agg(DISTINCT a.line_number) FILTER (WHERE l.sku_id IS NULL)
        INTO v_lines, v_skus, v_codes, v_places, v_units, v_wrong
        FROM jsonb_to_recordset(p_lines) AS a (line_number smallint, location text, quantity bigint)
        LEFT JOIN receipt_lines l ON l.tenant_id = p_tenant AND l.warehouse_id = p_warehouse
            AND l.receipt_id = p_receipt AND l.line_number = a.line_number
        LEFT JOIN skus s ON s.tenant_id = p_tenant AND s.sku_id = l.sku_id
        LEFT JOIN locations p ON p.tenant_id = p_tenant AND p.warehouse_id = p_warehouse AND p.code = a.location;
    IF v_wrong IS NOT NULL THEN
        outcome := 'unknown_line';
        answer := jsonb_build_object('line_numbers', v_wrong)::text;
        RETURN;
    END IF;
    IF array_position(v_places, NULL) IS NOT NULL THEN
        outcome := 'unknown_location';
        SELECT jsonb_build_object('locations', jsonb_agg(DISTINCT a.location))::text INTO answer
            FROM jsonb_to_recordset(p_lines) AS a (location text)
            WHERE NOT EXISTS (SELECT FROM locations p
                WHERE p.tenant_id = p_tenant AND p.warehouse_id = p_warehouse AND p.code = a.location);
        RETURN;
    END IF;
    SELECT jsonb_agg(DISTINCT a.code || ' at ' || p.code) INTO v_wrong
        FROM unnest(v_skus, v_places, v_codes) AS a (sku_id, location_id, code)
        JOIN inventory_master m ON m.tenant_id = p_tenant AND m.warehouse_id = p_warehouse
            AND m.sku_id = a.sku_id AND m.location_id = a.location_id AND m.status <> 'ACTIVE'
        JOIN locations p ON p.tenant_id = p_tenant AND p.warehouse_id = p_warehouse AND p.location_id = a.location_id;
    IF v_wrong IS NOT NULL THEN
        outcome := 'blocked';
        answer := jsonb_build_object('balances', v_wrong)::text;
        RETURN;
    END IF;

    -- Missing balances are made before any is locked, and then all are locked in order, as for a transfer.
    INSERT INTO inventory_master (tenant_id, warehouse_id, sku_id, location_id, on_hand)
        SELECT DISTINCT p_tenant, p_warehouse, a.sku_id, a.location_id, 0
        FROM unnest(v_skus, v_places) AS a (sku_id, location_id) ORDER BY 3, 4
        ON CONFLICT DO NOTHING;
    PERFORM FROM inventory_master m
        WHERE m.tenant_id = p_tenant AND m.warehouse_id = p_warehouse
            AND (m.sku_id, m.location_id) IN (SELECT * FROM unnest(v_skus, v_places))
        ORDER BY m.sku_id, m.location_id FOR NO KEY UPDATE;
    UPDATE inventory_master m SET on_hand = m.on_hand + a.units, updated_at = now()
        FROM (SELECT u.sku_id, u.location_id, sum(u.units) AS units
            FROM unnest(v_skus, v_places, v_units) AS u (sku_id, location_id, units) GROUP BY 1, 2) a
        WHERE m.tenant_id = p_tenant AND m.warehouse_id = p_warehouse AND m.sku_id = a.sku_id
            AND m.location_id = a.location_id AND m.status = 'ACTIVE';
    GET DIAGNOSTICS v_changed = ROW_COUNT;
    IF v_changed <> (SELECT count(*) FROM (SELECT DISTINCT * FROM unnest(v_skus, v_places)) d) THEN
        -- Blocked since it was looked at: sent again, the request is refused with its name.
        RAISE EXCEPTION 'a balance of receipt % was blocked meanwhile', p_receipt
            USING ERRCODE = 'serialization_failure';
    END IF;
    WITH posted AS (
        INSERT INTO inventory_transactions AS t
            (tenant_id, warehouse_id, sku_id, kind, to_location_id, quantity, reference)
            SELECT p_tenant, p_warehouse, a.sku_id, 'receipt', a.location_id, a.units, v_receipt.receipt_number
            FROM unnest(v_skus, v_places, v_units) AS a (sku_id, location_id, units)
            RETURNING t.transaction_id, t.sku_id, t.quantity
    )
    INSERT INTO outbox (tenant_id, type, entity, identifier, payload)
        SELECT p_tenant, 'stock.moved', 'sku', s.code, jsonb_build_object('transaction_id', t.transaction_id,
            'warehouse_id', p_warehouse, 'kind', 'receipt', 'quantity', t.quantity)
        FROM posted t JOIN skus s ON s.tenant_id = p_tenant AND s.sku_id = t.sku_id;
    UPDATE receipt_lines l SET received = l.received + a.units
        FROM (SELECT u.line_number, sum(u.units) AS units
            FROM unnest(v_lines, v_units) AS u (line_number, units) GROUP BY 1) a
        WHERE l.tenant_id = p_tenant AND l.warehouse_id = p_warehouse AND l.receipt_id = p_receipt
            AND l.line_number = a.line_number;
    UPDATE receipts r SET status = 'RECEIVING', updated_at = now()
        WHERE r.tenant_id = p_tenant AND r.warehouse_id = p_warehouse AND r.receipt_id = p_receipt;

    v_answer := receipt_document(p_tenant, p_warehouse, p_receipt);
    PERFORM keep_answer(p_tenant, p_key, p_hash, v_answer);
    PERFORM emit_event(p_tenant, 'receipt.receiving', 'receipt', p_receipt::text,
        jsonb_build_object('warehouse_id', p_warehouse));
    outcome := 'done';
    answer := v_answer::text;
END $$;

-- Ends a receipt: p_action is close or cancel. outcome is done (answer: the receipt) or, beside those of claim_key,
-- unknown_receipt, illegal_move (answer: {"state"}).
CREATE FUNCTION end_receipt(
    p_tenant bigint, p_key text, p_hash bytea, p_warehouse bigint, p_receipt bigint, p_action text,
    OUT outcome text, OUT answer text
)
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    v_status text;
    v_answer jsonb;
BEGIN
    IF p_action NOT IN ('close', 'cancel') THEN
        RAISE EXCEPTION 'p_action is %, allowed: close, cancel', p_action USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT c.outcome, c.answer INTO outcome, answer FROM claim_key(p_tenant, p_key, p_hash) c;
    IF outcome IS NOT NULL THEN
        RETURN;
    END IF;
    SELECT r.status INTO v_status FROM receipts r
        WHERE r.tenant_id = p_tenant AND r.warehouse_id = p_warehouse AND r.receipt_id = p_receipt
        FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        outcome := 'unknown_receipt';
        RETURN;
    ELSIF v_status <> (CASE p_action WHEN 'close' THEN 'RECEIVING' ELSE 'EXPECTED' END) THEN
        outcome := 'illegal_move';
        answer := jsonb_build_object('state', v_status)::text;
        RETURN;
    END IF;
    v_status := CASE p_action WHEN 'close' THEN 'RECEIVED' ELSE 'CANCELLED' END;
    UPDATE receipts r SET status = v_status, updated_at = now()
        WHERE r.tenant_id = p_tenant AND r.warehouse_id = p_warehouse AND r.receipt_id = p_receipt;
    v_answer := receipt_document(p_tenant, p_warehouse, p_receipt);
    PERFORM keep_answer(p_tenant, p_key, p_hash, v_answer);
    PERFORM emit_event(p_tenant, 'receipt.' || lower(v_status), 'receipt', p_receipt::text,
        jsonb_build_object('warehouse_id', p_warehouse));
    outcome := 'done';
    answer := v_answer::text;
END $$;

REVOKE ALL ON FUNCTION move_stock(bigint, bigint, bigint, text, bigint, bigint, bigint, text, bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION stock_lookup(bigint, bigint, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION stock_totals(bigint, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION fold_accents(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION skus_matching(text, text, text, integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION skus_page(bigint, text, text, text, integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION sku_lookup(bigint, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION warehouses_page(bigint, text, integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION warehouse_capacity(bigint, bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION locations_page(bigint, bigint, text, integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION movements_page(bigint, bigint, text, bigint, integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION carry_forward(date) FROM PUBLIC;
REVOKE ALL ON FUNCTION ledger_differences(bigint, bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION receipt_document(bigint, bigint, bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION receipt_lookup(bigint, bigint, bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION receipts_page(bigint, bigint, text, bigint, integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION create_receipt(bigint, text, bytea, bigint, text, text, jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION receive_lines(bigint, text, bytea, bigint, bigint, jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION end_receipt(bigint, text, bytea, bigint, bigint, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION move_stock(bigint, bigint, bigint, text, bigint, bigint, bigint, text, bigint) TO wms_app;
GRANT EXECUTE ON FUNCTION stock_lookup(bigint, bigint, text) TO wms_app;
GRANT EXECUTE ON FUNCTION stock_totals(bigint, text) TO wms_app;
GRANT EXECUTE ON FUNCTION fold_accents(text) TO wms_app;
GRANT EXECUTE ON FUNCTION skus_matching(text, text, text, integer) TO wms_app;
GRANT EXECUTE ON FUNCTION skus_page(bigint, text, text, text, integer) TO wms_app;
GRANT EXECUTE ON FUNCTION sku_lookup(bigint, text) TO wms_app;
GRANT EXECUTE ON FUNCTION warehouses_page(bigint, text, integer) TO wms_app;
GRANT EXECUTE ON FUNCTION warehouse_capacity(bigint, bigint) TO wms_app;
GRANT EXECUTE ON FUNCTION locations_page(bigint, bigint, text, integer) TO wms_app;
GRANT EXECUTE ON FUNCTION movements_page(bigint, bigint, text, bigint, integer) TO wms_app;
GRANT EXECUTE ON FUNCTION ledger_differences(bigint, bigint) TO wms_app;
GRANT EXECUTE ON FUNCTION receipt_document(bigint, bigint, bigint) TO wms_app;
GRANT EXECUTE ON FUNCTION receipt_lookup(bigint, bigint, bigint) TO wms_app;
GRANT EXECUTE ON FUNCTION receipts_page(bigint, bigint, text, bigint, integer) TO wms_app;
GRANT EXECUTE ON FUNCTION create_receipt(bigint, text, bytea, bigint, text, text, jsonb) TO wms_app;
GRANT EXECUTE ON FUNCTION receive_lines(bigint, text, bytea, bigint, bigint, jsonb) TO wms_app;
GRANT EXECUTE ON FUNCTION end_receipt(bigint, text, bytea, bigint, bigint, text) TO wms_app;
