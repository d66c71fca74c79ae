-- Orders, allocation, waves, picks, shipments, customers and the summary: what the service calls, one function per
-- endpoint as in 0003.
--
-- House rules of this file:
-- * The row of an order is the lock of everything below it: whoever changes its lines, reservations, tasks or shipment
--   holds it FOR NO KEY UPDATE. Then come balances by (sku_id, location_id), and waves, by id, last. Several orders are
--   locked by id. So no two functions wait for each other in a circle.
-- * Which move is legal is the table in wms/domain; a function refuses the others with 'illegal_move' and the state that
--   it found, and a live test compares the two.
-- * The columns that a confirmed pick changes (order_lines.allocated/picked, reservations.status/quantity,
--   pick_tasks.status/picked, inventory_master.on_hand/reserved) stand in no index and in no index's predicate: these
--   updates stay on their page (HOT).

-- Like the other tables whose rows change once or twice: room for the new version beside the old one.
ALTER TABLE reservations SET (fillfactor = 85);

-- The tables are new and empty: plain CREATE INDEX locks nobody out. None of these begins with tenant_id, warehouse_id,
-- as the primary keys do: until the first ANALYZE the planner takes any index with that beginning for as good as the
-- primary key, and walks all of a warehouse for one row. (The one partial index that does is asked for with its whole
-- key only.)
-- orders_page with a status, newest first; analytics_summary counts orders by it (index only).
CREATE INDEX orders_status ON orders (status, tenant_id, warehouse_id, order_id);
-- create_wave, cancel_order: the reservations of an order.
CREATE INDEX reservations_order ON reservations (order_id, tenant_id, warehouse_id);
-- picks_page, wave_lookup: the tasks of a wave as they are walked; finish_waves: whether one is open.
CREATE UNIQUE INDEX pick_tasks_walk ON pick_tasks (wave_id, sequence, tenant_id, warehouse_id);
-- cancel_order: the tasks of an order.
CREATE INDEX pick_tasks_order ON pick_tasks (order_id, tenant_id, warehouse_id);
-- picks_page without a wave, analytics_summary: the waves at work, however many were done before.
CREATE INDEX waves_open ON waves (tenant_id, warehouse_id, wave_id) WHERE status = 'OPEN';
-- shipments_page with a status, newest first.
CREATE INDEX shipments_status ON shipments (status, tenant_id, warehouse_id, shipment_id);
-- create_shipment: an order has at most one shipment that counts.
CREATE UNIQUE INDEX shipments_order ON shipments (order_id, tenant_id, warehouse_id) WHERE status <> 'CANCELLED';

-- A time as the API writes it, whatever the session's time zone.
CREATE FUNCTION rfc3339(p_time timestamptz) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT to_char(p_time AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') $$;

-- An order with its lines and its customer as JSON; a query that does not ask for these columns does not compute them.
CREATE VIEW order_rows WITH (security_invoker = true) AS
    SELECT o.tenant_id, o.warehouse_id, o.order_id, o.order_number, o.status, o.priority, o.total_value::text,
        o.customer_id, o.created_at, o.updated_at,
        (SELECT jsonb_agg(jsonb_build_object(
                'line_number', l.line_number, 'sku', s.code, 'quantity', l.quantity,
                'unit_price', l.unit_price::text, 'allocated', l.allocated, 'picked', l.picked)
                ORDER BY l.line_number)
            FROM order_lines l
            JOIN skus s ON s.tenant_id = l.tenant_id AND s.sku_id = l.sku_id
            WHERE l.tenant_id = o.tenant_id AND l.warehouse_id = o.warehouse_id AND l.order_id = o.order_id
        ) AS order_lines,
        (SELECT jsonb_build_object('id', c.customer_id, 'code', c.code, 'name', c.name, 'city', c.city)
            FROM customers c WHERE c.tenant_id = o.tenant_id AND c.customer_id = o.customer_id
        ) AS customer
    FROM orders o;

-- A task with what a picker looks for.
CREATE VIEW pick_rows WITH (security_invoker = true) AS
    SELECT t.tenant_id, t.warehouse_id, t.task_id, t.wave_id, t.sequence, t.order_id, t.line_number, s.code AS sku,
        s.name AS sku_name, s.barcode, l.code AS location, t.quantity, t.picked, t.status, t.updated_at
    FROM pick_tasks t
    JOIN skus s ON s.tenant_id = t.tenant_id AND s.sku_id = t.sku_id
    JOIN locations l ON l.tenant_id = t.tenant_id AND l.warehouse_id = t.warehouse_id
        AND l.location_id = t.location_id;

-- An order as the writing functions answer it.
CREATE FUNCTION order_document(p_order orders) RETURNS jsonb
    LANGUAGE sql STABLE
    AS $$ SELECT jsonb_build_object(
        'id', p_order.order_id, 'order_number', p_order.order_number, 'warehouse_id', p_order.warehouse_id,
        'status', p_order.status, 'priority', p_order.priority, 'total_value', p_order.total_value::text,
        'customer_id', p_order.customer_id, 'created_at', rfc3339(p_order.created_at),
        'updated_at', rfc3339(p_order.updated_at)) $$;

-- A shipment as the writing functions answer it.
CREATE FUNCTION shipment_document(p_shipment shipments) RETURNS jsonb
    LANGUAGE sql STABLE
    AS $$ SELECT jsonb_build_object(
        'id', p_shipment.shipment_id, 'shipment_number', p_shipment.shipment_number,
        'warehouse_id', p_shipment.warehouse_id, 'order_id', p_shipment.order_id, 'carrier', p_shipment.carrier,
        'tracking_code', p_shipment.tracking_code, 'status', p_shipment.status,
        'created_at', rfc3339(p_shipment.created_at), 'updated_at', rfc3339(p_shipment.updated_at)) $$;


-- Customers and orders

-- The tenant's customers by code, after p_after (NULL: from the start).
CREATE FUNCTION customers_page(p_tenant bigint, p_after text, p_limit integer)
    RETURNS TABLE (customer_id bigint, code text, name text, city text, created_at timestamptz)
    LANGUAGE plpgsql VOLATILE
    AS $$
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant::text, true);
    RETURN QUERY
        SELECT c.customer_id, c.code, c.name, c.city, c.created_at
        FROM customers c
        WHERE c.tenant_id = p_tenant AND c.code > coalesce(p_after, '')
        ORDER BY c.code LIMIT p_limit;
END $$;

-- The orders of a warehouse, newest (highest id) first, below p_after (NULL: from the start), in one state or in any.
-- order_lines and customer are JSON, NULL unless asked for.
CREATE FUNCTION orders_page(
    p_tenant bigint, p_warehouse bigint, p_status text, p_after bigint, p_limit integer,
    p_with_lines boolean, p_with_customer boolean
)
    RETURNS TABLE (order_id bigint, order_number text, status text, priority smallint, total_value text,
        customer_id bigint, created_at timestamptz, updated_at timestamptz, order_lines text, customer text)
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    v_below bigint := coalesce(p_after, 9223372036854775807);
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant::text, true);
    -- Two statements: each keeps a plan of its own, and each is a walk down one index.
    IF p_status IS NULL THEN
        RETURN QUERY
            SELECT o.order_id, o.order_number, o.status, o.priority, o.total_value, o.customer_id, o.created_at,
                o.updated_at, CASE WHEN p_with_lines THEN o.order_lines::text END,
                CASE WHEN p_with_customer THEN o.customer::text END
            FROM order_rows o
            WHERE o.tenant_id = p_tenant AND o.warehouse_id = p_warehouse AND o.order_id < v_below
            ORDER BY o.order_id DESC LIMIT p_limit;
    ELSE
        RETURN QUERY
            SELECT o.order_id, o.order_number, o.status, o.priority, o.total_value, o.customer_id, o.created_at,
                o.updated_at, CASE WHEN p_with_lines THEN o.order_lines::text END,
                CASE WHEN p_with_customer THEN o.customer::text END
            FROM order_rows o
            WHERE o.tenant_id = p_tenant AND o.warehouse_id = p_warehouse AND o.status = p_status
                AND o.order_id < v_below
            ORDER BY o.order_id DESC LIMIT p_limit;
    END IF;
END $$;

-- One order, or no row.
CREATE FUNCTION order_lookup(
    p_tenant bigint, p_warehouse bigint, p_order bigint, p_with_lines boolean, p_with_customer boolean
)
    RETURNS TABLE (order_id bigint, order_number text, status text, priority smallint, total_value text,
        customer_id bigint, created_at timestamptz, updated_at timestamptz, order_lines text, customer text)
    LANGUAGE plpgsql VOLATILE
    AS $$
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant::text, true);
    RETURN QUERY
        SELECT o.order_id, o.order_number, o.status, o.priority, o.total_value, o.customer_id, o.created_at,
            o.updated_at, CASE WHEN p_with_lines THEN o.order_lines::text END,
            CASE WHEN p_with_customer THEN o.customer::text END
        FROM order_rows o
        WHERE o.tenant_id = p_tenant AND o.warehouse_id = p_warehouse AND o.order_id = p_order;
END $$;

-- Takes an order; p_skus, p_quantities and p_prices are its lines, in their order. Refusals: unknown_warehouse,
-- unknown_customer, unknown_sku ({"skus"}), number_taken.
CREATE FUNCTION create_order(
    p_tenant bigint, p_key text, p_hash bytea, p_warehouse bigint, p_number text, p_customer text, p_priority integer,
    p_skus text[], p_quantities bigint[], p_prices numeric[],
    OUT outcome text, OUT answer text
)
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    v_customer bigint;
    v_unknown  text[];
    v_order    orders%ROWTYPE;
    v_answer   jsonb;
BEGIN
    SELECT c.outcome, c.answer INTO outcome, answer FROM claim_key(p_tenant, p_key, p_hash) c;
    IF outcome IS NOT NULL THEN
        RETURN;
    END IF;
    SELECT c.customer_id INTO v_customer FROM customers c WHERE c.tenant_id = p_tenant AND c.code = p_customer;
    v_unknown := ARRAY(
        SELECT DISTINCT x.sku FROM unnest(p_skus) x (sku)
        WHERE NOT EXISTS (SELECT FROM skus s WHERE s.tenant_id = p_tenant AND s.code = x.sku)
        ORDER BY x.sku);
    outcome := CASE
        WHEN NOT EXISTS (SELECT FROM warehouses w WHERE w.tenant_id = p_tenant AND w.warehouse_id = p_warehouse)
            THEN 'unknown_warehouse'
        WHEN v_customer IS NULL THEN 'unknown_customer'
        WHEN v_unknown <> '{}' THEN 'unknown_sku' END;
    IF outcome IS NOT NULL THEN
        IF outcome = 'unknown_sku' THEN
            answer := jsonb_build_object('skus', v_unknown)::text;
        END IF;
        RETURN;
    END IF;

    INSERT INTO orders AS o (tenant_id, warehouse_id, order_number, customer_id, priority, total_value)
        SELECT p_tenant, p_warehouse, p_number, v_customer, p_priority, sum(x.quantity * x.price)
        FROM unnest(p_quantities, p_prices) x (quantity, price)
        ON CONFLICT (tenant_id, order_number) DO NOTHING
        RETURNING o.* INTO v_order;
    IF NOT FOUND THEN
        outcome := 'number_taken';
        RETURN;
    END IF;
    INSERT INTO order_lines (tenant_id, warehouse_id, order_id, line_number, sku_id, quantity, unit_price)
        SELECT p_tenant, p_warehouse, v_order.order_id, x.number, s.sku_id, x.quantity, x.price
        FROM unnest(p_skus, p_quantities, p_prices) WITH ORDINALITY x (sku, quantity, price, number)
        JOIN skus s ON s.tenant_id = p_tenant AND s.code = x.sku;

    v_answer := order_document(v_order);
    PERFORM keep_answer(p_tenant, p_key, p_hash, v_answer);
    PERFORM emit_event(p_tenant, 'order.created', 'order', v_order.order_id::text,
        jsonb_build_object('warehouse_id', p_warehouse));
    outcome := 'done';
    answer := v_answer::text;
END $$;

-- Reserves stock for every line of an order, or for none. A line is taken from the smallest balance that has all of it,
-- so that a picker goes to one place and large balances stay whole; when none has, the largest one is used up and the
-- search goes on with the rest. At equal size the lowest location id comes first. (plan() in wms/domain/orders.py.)
-- Refusals: unknown_order, illegal_move ({"state"}), insufficient ({"lines": [{line_number, sku, quantity, available}]},
-- every line of each SKU that is short; available is what is free of the SKU in the warehouse).
CREATE FUNCTION allocate_order(
    p_tenant bigint, p_key text, p_hash bytea, p_warehouse bigint, p_order bigint, OUT outcome text, OUT answer text
)
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    v_order    orders%ROWTYPE;
    v_line     record;
    v_need     bigint;
    v_location bigint;
    v_take     bigint;
    v_answer   jsonb;
BEGIN
    SELECT c.outcome, c.answer INTO outcome, answer FROM claim_key(p_tenant, p_key, p_hash) c;
    IF outcome IS NOT NULL THEN
        RETURN;
    END IF;
    SELECT * INTO v_order FROM orders o
        WHERE o.tenant_id = p_tenant AND o.warehouse_id = p_warehouse AND o.order_id = p_order FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        outcome := 'unknown_order';
        RETURN;
    END IF;
    IF v_order.status <> 'NEW' THEN
        outcome := 'illegal_move';
        answer := jsonb_build_object('state', v_order.status)::text;
        RETURN;
    END IF;

    -- All balances of these SKUs, so that what is free stays free until the end.
    PERFORM FROM inventory_master m
        WHERE m.tenant_id = p_tenant AND m.warehouse_id = p_warehouse AND m.status = 'ACTIVE' AND m.sku_id IN (
            SELECT l.sku_id FROM order_lines l
            WHERE l.tenant_id = p_tenant AND l.warehouse_id = p_warehouse AND l.order_id = p_order)
        ORDER BY m.sku_id, m.location_id FOR NO KEY UPDATE OF m;
    WITH wanted AS (
        SELECT l.line_number, l.sku_id, l.quantity, sum(l.quantity) OVER (PARTITION BY l.sku_id) AS in_all
        FROM order_lines l
        WHERE l.tenant_id = p_tenant AND l.warehouse_id = p_warehouse AND l.order_id = p_order
    ), short AS (
        SELECT w.line_number, w.sku_id, w.quantity, f.units
        FROM wanted w
        CROSS JOIN LATERAL (
            SELECT coalesce(sum(m.on_hand - m.reserved), 0)::bigint AS units FROM inventory_master m
            WHERE m.tenant_id = p_tenant AND m.warehouse_id = p_warehouse AND m.sku_id = w.sku_id
                AND m.status = 'ACTIVE'
        ) f
        WHERE f.units < w.in_all
    )
    SELECT jsonb_agg(jsonb_build_object(
            'line_number', x.line_number, 'sku', s.code, 'quantity', x.quantity, 'available', x.units)
            ORDER BY x.line_number)
        INTO v_answer
        FROM short x JOIN skus s ON s.tenant_id = p_tenant AND s.sku_id = x.sku_id;
    IF v_answer IS NOT NULL THEN
        outcome := 'insufficient';
        answer := jsonb_build_object('lines', v_answer)::text;
        RETURN;
    END IF;

    FOR v_line IN
        SELECT l.line_number, l.sku_id, l.quantity FROM order_lines l
        WHERE l.tenant_id = p_tenant AND l.warehouse_id = p_warehouse AND l.order_id = p_order
        ORDER BY l.line_number
    LOOP
        v_need := v_line.quantity;
        WHILE v_need > 0 LOOP
            SELECT m.location_id, least(m.on_hand - m.reserved, v_need) INTO STRICT v_location, v_take
                FROM inventory_master m
                WHERE m.tenant_id = p_tenant AND m.warehouse_id = p_warehouse AND m.sku_id = v_line.sku_id
                    AND m.status = 'ACTIVE' AND m.on_hand > m.reserved
                ORDER BY m.on_hand - m.reserved < v_need,
                    CASE WHEN m.on_hand - m.reserved < v_need THEN -1 ELSE 1 END * (m.on_hand - m.reserved),
                    m.location_id
                LIMIT 1;
            UPDATE inventory_master m SET reserved = m.reserved + v_take
                WHERE m.tenant_id = p_tenant AND m.warehouse_id = p_warehouse AND m.sku_id = v_line.sku_id
                    AND m.location_id = v_location;
            INSERT INTO reservations
                (tenant_id, warehouse_id, order_id, line_number, sku_id, location_id, quantity)
                VALUES (p_tenant, p_warehouse, p_order, v_line.line_number, v_line.sku_id, v_location, v_take);
            v_need := v_need - v_take;
        END LOOP;
    END LOOP;
    UPDATE order_lines l SET allocated = l.quantity
        WHERE l.tenant_id = p_tenant AND l.warehouse_id = p_warehouse AND l.order_id = p_order;
    UPDATE orders o SET status = 'ALLOCATED', updated_at = now()
        WHERE o.tenant_id = p_tenant AND o.warehouse_id = p_warehouse AND o.order_id = p_order
        RETURNING o.* INTO v_order;

    SELECT jsonb_agg(jsonb_build_object(
            'line_number', r.line_number, 'sku', s.code, 'location', l.code, 'quantity', r.quantity)
            ORDER BY r.reservation_id)
        INTO v_answer
        FROM reservations r
        JOIN skus s ON s.tenant_id = r.tenant_id AND s.sku_id = r.sku_id
        JOIN locations l ON l.tenant_id = r.tenant_id AND l.warehouse_id = r.warehouse_id
            AND l.location_id = r.location_id
        WHERE r.tenant_id = p_tenant AND r.warehouse_id = p_warehouse AND r.order_id = p_order;
    v_answer := order_document(v_order) || jsonb_build_object('allocations', v_answer);
    PERFORM keep_answer(p_tenant, p_key, p_hash, v_answer);
    PERFORM emit_event(p_tenant, 'order.allocated', 'order', p_order::text,
        jsonb_build_object('warehouse_id', p_warehouse));
    PERFORM emit_reserved(p_tenant, p_warehouse, p_order, 'stock.reserved');
    outcome := 'done';
    answer := v_answer::text;
END $$;

-- One event for each SKU of an order: what is available of it has changed.
CREATE FUNCTION emit_reserved(p_tenant bigint, p_warehouse bigint, p_order bigint, p_type text) RETURNS void
    LANGUAGE plpgsql VOLATILE
    AS $$
BEGIN
    PERFORM emit_event(p_tenant, p_type, 'sku', s.code, jsonb_build_object('warehouse_id', p_warehouse))
        FROM skus s
        WHERE s.tenant_id = p_tenant AND s.sku_id IN (
            SELECT l.sku_id FROM order_lines l
            WHERE l.tenant_id = p_tenant AND l.warehouse_id = p_warehouse AND l.order_id = p_order);
END $$;

-- Cancels an order of which nothing has been picked: its reservations are released and its open tasks cancelled.
-- Refusals: unknown_order, illegal_move ({"state"}), already_picked ({"units"}).
CREATE FUNCTION cancel_order(
    p_tenant bigint, p_key text, p_hash bytea, p_warehouse bigint, p_order bigint, OUT outcome text, OUT answer text
)
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    v_order    orders%ROWTYPE;
    v_units    bigint;
    v_waves    bigint[];
    v_released jsonb;
    v_answer   jsonb;
BEGIN
    SELECT c.outcome, c.answer INTO outcome, answer FROM claim_key(p_tenant, p_key, p_hash) c;
    IF outcome IS NOT NULL THEN
        RETURN;
    END IF;
    SELECT * INTO v_order FROM orders o
        WHERE o.tenant_id = p_tenant AND o.warehouse_id = p_warehouse AND o.order_id = p_order FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        outcome := 'unknown_order';
        RETURN;
    END IF;
    IF v_order.status NOT IN ('NEW', 'ALLOCATED', 'PICKING', 'PICKED') THEN
        outcome := 'illegal_move';
        answer := jsonb_build_object('state', v_order.status)::text;
        RETURN;
    END IF;
    SELECT sum(l.picked) INTO v_units FROM order_lines l
        WHERE l.tenant_id = p_tenant AND l.warehouse_id = p_warehouse AND l.order_id = p_order;
    IF v_units > 0 THEN
        outcome := 'already_picked';
        answer := jsonb_build_object('units', v_units)::text;
        RETURN;
    END IF;

    PERFORM FROM inventory_master m
        WHERE m.tenant_id = p_tenant AND m.warehouse_id = p_warehouse AND (m.sku_id, m.location_id) IN (
            SELECT r.sku_id, r.location_id FROM reservations r
            WHERE r.tenant_id = p_tenant AND r.warehouse_id = p_warehouse AND r.order_id = p_order
                AND r.status = 'OPEN')
        ORDER BY m.sku_id, m.location_id FOR NO KEY UPDATE OF m;
    SELECT coalesce(jsonb_agg(jsonb_build_object(
            'line_number', r.line_number, 'sku', s.code, 'location', l.code, 'quantity', r.quantity)
            ORDER BY r.reservation_id), '[]')
        INTO v_released
        FROM reservations r
        JOIN skus s ON s.tenant_id = r.tenant_id AND s.sku_id = r.sku_id
        JOIN locations l ON l.tenant_id = r.tenant_id AND l.warehouse_id = r.warehouse_id
            AND l.location_id = r.location_id
        WHERE r.tenant_id = p_tenant AND r.warehouse_id = p_warehouse AND r.order_id = p_order AND r.status = 'OPEN';
    WITH released AS (
        UPDATE reservations r SET status = 'RELEASED'
        WHERE r.tenant_id = p_tenant AND r.warehouse_id = p_warehouse AND r.order_id = p_order AND r.status = 'OPEN'
        RETURNING r.sku_id, r.location_id, r.quantity
    ), summed AS (
        SELECT x.sku_id, x.location_id, sum(x.quantity)::bigint AS units FROM released x
        GROUP BY x.sku_id, x.location_id
    )
    UPDATE inventory_master m SET reserved = m.reserved - x.units
        FROM summed x
        WHERE m.tenant_id = p_tenant AND m.warehouse_id = p_warehouse AND m.sku_id = x.sku_id
            AND m.location_id = x.location_id;
    UPDATE order_lines l SET allocated = 0
        WHERE l.tenant_id = p_tenant AND l.warehouse_id = p_warehouse AND l.order_id = p_order AND l.allocated > 0;
    WITH cancelled AS (
        UPDATE pick_tasks t SET status = 'CANCELLED', updated_at = now()
        WHERE t.tenant_id = p_tenant AND t.warehouse_id = p_warehouse AND t.order_id = p_order AND t.status = 'OPEN'
        RETURNING t.wave_id
    )
    SELECT array_agg(DISTINCT x.wave_id) INTO v_waves FROM cancelled x;
    UPDATE orders o SET status = 'CANCELLED', updated_at = now()
        WHERE o.tenant_id = p_tenant AND o.warehouse_id = p_warehouse AND o.order_id = p_order
        RETURNING o.* INTO v_order;

    v_answer := order_document(v_order) || jsonb_build_object('released', v_released);
    PERFORM keep_answer(p_tenant, p_key, p_hash, v_answer);
    PERFORM emit_event(p_tenant, 'order.cancelled', 'order', p_order::text,
        jsonb_build_object('warehouse_id', p_warehouse));
    PERFORM emit_reserved(p_tenant, p_warehouse, p_order, 'stock.released');
    IF v_waves IS NOT NULL THEN
        PERFORM finish_waves(p_tenant, p_warehouse, v_waves);
    END IF;
    outcome := 'done';
    answer := v_answer::text;
END $$;


-- Waves and picks

-- A wave and its tasks as they are walked.
CREATE FUNCTION wave_document(p_wave waves) RETURNS jsonb
    LANGUAGE plpgsql STABLE
    AS $$
BEGIN
    RETURN jsonb_build_object(
        'id', p_wave.wave_id, 'warehouse_id', p_wave.warehouse_id, 'status', p_wave.status,
        'created_at', rfc3339(p_wave.created_at),
        'tasks', coalesce((
            SELECT jsonb_agg(jsonb_build_object(
                    'id', t.task_id, 'wave_id', t.wave_id, 'sequence', t.sequence, 'order_id', t.order_id,
                    'line_number', t.line_number, 'sku', t.sku, 'sku_name', t.sku_name, 'barcode', t.barcode,
                    'location', t.location, 'quantity', t.quantity, 'picked', t.picked, 'status', t.status,
                    'updated_at', rfc3339(t.updated_at))
                    ORDER BY t.sequence)
            FROM pick_rows t
            WHERE t.tenant_id = p_wave.tenant_id AND t.warehouse_id = p_wave.warehouse_id
                AND t.wave_id = p_wave.wave_id
        ), '[]'));
END $$;

-- Releases allocated orders to be picked together: a task for each of their reservations, in walking order (aisles by
-- name; positions upwards in the first aisle that is visited, downwards in the next, and so on; levels upwards: walk()
-- in wms/domain/picking.py). Refusals: unknown_order ({"order_id"}), illegal_move ({"order_id", "state"}).
CREATE FUNCTION create_wave(
    p_tenant bigint, p_key text, p_hash bytea, p_warehouse bigint, p_orders bigint[], OUT outcome text, OUT answer text
)
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    v_order  bigint;
    v_status text;
    v_wave   waves%ROWTYPE;
    v_answer jsonb;
BEGIN
    SELECT c.outcome, c.answer INTO outcome, answer FROM claim_key(p_tenant, p_key, p_hash) c;
    IF outcome IS NOT NULL THEN
        RETURN;
    END IF;
    PERFORM FROM orders o
        WHERE o.tenant_id = p_tenant AND o.warehouse_id = p_warehouse AND o.order_id = ANY (p_orders)
        ORDER BY o.order_id FOR NO KEY UPDATE;
    SELECT x.order_id, o.status INTO v_order, v_status
        FROM unnest(p_orders) WITH ORDINALITY x (order_id, number)
        LEFT JOIN orders o ON o.tenant_id = p_tenant AND o.warehouse_id = p_warehouse AND o.order_id = x.order_id
        WHERE o.status IS DISTINCT FROM 'ALLOCATED'
        ORDER BY x.number LIMIT 1;
    IF FOUND THEN
        outcome := CASE WHEN v_status IS NULL THEN 'unknown_order' ELSE 'illegal_move' END;
        answer := jsonb_build_object('order_id', v_order, 'state', v_status)::text;
        RETURN;
    END IF;

    INSERT INTO waves AS w (tenant_id, warehouse_id) VALUES (p_tenant, p_warehouse) RETURNING w.* INTO v_wave;
    INSERT INTO pick_tasks (tenant_id, warehouse_id, wave_id, reservation_id, order_id, line_number, sku_id,
            location_id, sequence, quantity)
        SELECT p_tenant, p_warehouse, v_wave.wave_id, x.reservation_id, x.order_id, x.line_number, x.sku_id,
            x.location_id,
            row_number() OVER (ORDER BY x.aisle COLLATE "C", CASE WHEN x.turn % 2 = 1 THEN 1 ELSE -1 END * x.position,
                x.level, x.location_id, x.order_id, x.line_number, x.reservation_id),
            x.quantity
        FROM (
            SELECT r.*, l.aisle, l.position, l.level, dense_rank() OVER (ORDER BY l.aisle COLLATE "C") AS turn
            FROM reservations r
            JOIN locations l ON l.tenant_id = r.tenant_id AND l.warehouse_id = r.warehouse_id
                AND l.location_id = r.location_id
            WHERE r.tenant_id = p_tenant AND r.warehouse_id = p_warehouse AND r.order_id = ANY (p_orders)
                AND r.status = 'OPEN'
        ) x
        ORDER BY 9;
    UPDATE orders o SET status = 'PICKING', updated_at = now()
        WHERE o.tenant_id = p_tenant AND o.warehouse_id = p_warehouse AND o.order_id = ANY (p_orders);

    v_answer := wave_document(v_wave);
    PERFORM keep_answer(p_tenant, p_key, p_hash, v_answer);
    PERFORM emit_event(p_tenant, 'order.picking', 'order', x.order_id::text,
            jsonb_build_object('warehouse_id', p_warehouse, 'wave_id', v_wave.wave_id))
        FROM unnest(p_orders) x (order_id);
    outcome := 'done';
    answer := v_answer::text;
END $$;

-- A wave with its tasks as JSON, or NULL.
CREATE FUNCTION wave_lookup(p_tenant bigint, p_warehouse bigint, p_wave bigint) RETURNS text
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    v_wave waves%ROWTYPE;
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant::text, true);
    SELECT * INTO v_wave FROM waves w
        WHERE w.tenant_id = p_tenant AND w.warehouse_id = p_warehouse AND w.wave_id = p_wave;
    RETURN CASE WHEN FOUND THEN wave_document(v_wave)::text END;
END $$;

-- The tasks of a wave as they are walked, or those of all open waves, wave by wave; in one state or in any. After
-- (p_after_wave, p_after_sequence); NULL: from the start.
CREATE FUNCTION picks_page(
    p_tenant bigint, p_warehouse bigint, p_wave bigint, p_status text, p_after_wave bigint, p_after_sequence integer,
    p_limit integer
)
    RETURNS TABLE (task_id bigint, wave_id bigint, sequence integer, order_id bigint, line_number smallint, sku text,
        sku_name text, barcode text, location text, quantity bigint, picked bigint, status text,
        updated_at timestamptz)
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    v_wave     bigint := coalesce(p_after_wave, 0);
    v_sequence integer := coalesce(p_after_sequence, 0);
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant::text, true);
    IF p_wave IS NOT NULL THEN
        RETURN QUERY
            SELECT t.task_id, t.wave_id, t.sequence, t.order_id, t.line_number, t.sku, t.sku_name, t.barcode,
                t.location, t.quantity, t.picked, t.status, t.updated_at
            FROM pick_rows t
            WHERE t.tenant_id = p_tenant AND t.warehouse_id = p_warehouse AND t.wave_id = p_wave
                AND t.sequence > v_sequence AND (p_status IS NULL OR t.status = p_status)
            ORDER BY t.sequence LIMIT p_limit;
    ELSE
        RETURN QUERY
            SELECT t.task_id, t.wave_id, t.sequence, t.order_id, t.line_number, t.sku, t.sku_name, t.barcode,
                t.location, t.quantity, t.picked, t.status, t.updated_at
            FROM waves w
            JOIN pick_rows t ON t.tenant_id = w.tenant_id AND t.warehouse_id = w.warehouse_id
                AND t.wave_id = w.wave_id
            WHERE w.tenant_id = p_tenant AND w.warehouse_id = p_warehouse AND w.status = 'OPEN'
                AND w.wave_id >= v_wave AND (w.wave_id > v_wave OR t.sequence > v_sequence)
                AND (p_status IS NULL OR t.status = p_status)
            ORDER BY w.wave_id, t.sequence LIMIT p_limit;
    END IF;
END $$;

-- Ends those of p_waves that have no open task left. Called last: of two orders that are completed at the same time one
-- waits here, and then sees the other one's tasks done.
CREATE FUNCTION finish_waves(p_tenant bigint, p_warehouse bigint, p_waves bigint[]) RETURNS void
    LANGUAGE plpgsql VOLATILE
    AS $$
BEGIN
    PERFORM FROM waves w
        WHERE w.tenant_id = p_tenant AND w.warehouse_id = p_warehouse AND w.wave_id = ANY (p_waves)
        ORDER BY w.wave_id FOR NO KEY UPDATE;
    -- From the end of the walk, where an open task is found at once.
    UPDATE waves w SET status = 'DONE'
        WHERE w.tenant_id = p_tenant AND w.warehouse_id = p_warehouse AND w.wave_id = ANY (p_waves)
            AND w.status = 'OPEN' AND (
                SELECT t.task_id FROM pick_tasks t
                WHERE t.tenant_id = p_tenant AND t.warehouse_id = p_warehouse AND t.wave_id = w.wave_id
                    AND t.status = 'OPEN'
                ORDER BY t.sequence DESC LIMIT 1
            ) IS NULL;
END $$;

-- What a confirmed pick changes, within a transaction that has named its tenant: the task, the balance and its ledger
-- row, the order line, the reservation, and the order when it was its last task. Less than the task's quantity is a
-- short pick: the rest of the reservation is released. order_done: the caller ends its wave.
-- Refusals, with nothing changed: unknown_task, illegal_move ({"task_id", "state"}), too_many ({"task_id", "quantity"}),
-- blocked ({"task_id"}).
CREATE FUNCTION settle_pick(
    p_tenant bigint, p_warehouse bigint, p_task bigint, p_quantity bigint,
    OUT outcome text, OUT answer jsonb, OUT order_done boolean, OUT wave_id bigint
)
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    v_task        record;
    v_number      text;
    v_state       text;
    v_move        record;
    v_on_hand     bigint;
    v_transaction bigint;
BEGIN
    -- What is read of the task here never changes; its state is settled by the UPDATE below.
    SELECT t.order_id, t.line_number, t.reservation_id, t.wave_id, t.sku_id, t.location_id, t.quantity, s.code AS sku
        INTO v_task
        FROM pick_tasks t
        JOIN skus s ON s.tenant_id = p_tenant AND s.sku_id = t.sku_id
        WHERE t.tenant_id = p_tenant AND t.warehouse_id = p_warehouse AND t.task_id = p_task;
    IF NOT FOUND THEN
        outcome := 'unknown_task';
        answer := jsonb_build_object('task_id', p_task);
        RETURN;
    END IF;
    IF p_quantity > v_task.quantity THEN
        outcome := 'too_many';
        answer := jsonb_build_object('task_id', p_task, 'quantity', v_task.quantity);
        RETURN;
    END IF;
    SELECT o.order_number INTO v_number FROM orders o
        WHERE o.tenant_id = p_tenant AND o.warehouse_id = p_warehouse AND o.order_id = v_task.order_id
        FOR NO KEY UPDATE;
    v_state := CASE WHEN p_quantity = v_task.quantity THEN 'PICKED' ELSE 'SHORT' END;
    UPDATE pick_tasks t SET status = v_state, picked = p_quantity, updated_at = now()
        WHERE t.tenant_id = p_tenant AND t.warehouse_id = p_warehouse AND t.task_id = p_task AND t.status = 'OPEN';
    IF NOT FOUND THEN
        outcome := 'illegal_move';
        SELECT jsonb_build_object('task_id', p_task, 'state', t.status) INTO answer FROM pick_tasks t
            WHERE t.tenant_id = p_tenant AND t.warehouse_id = p_warehouse AND t.task_id = p_task;
        RETURN;
    END IF;

    IF p_quantity > 0 THEN
        v_move := move_stock(p_tenant, p_warehouse, v_task.sku_id, 'issue', v_task.location_id, NULL, p_quantity,
            v_number, v_task.quantity);
        IF v_move.outcome = 'blocked' THEN
            UPDATE pick_tasks t SET status = 'OPEN', picked = 0
                WHERE t.tenant_id = p_tenant AND t.warehouse_id = p_warehouse AND t.task_id = p_task;
            outcome := 'blocked';
            answer := jsonb_build_object('task_id', p_task);
            RETURN;
        ELSIF v_move.outcome <> 'posted' THEN
            -- Reserved units are there: that is what a reservation is.
            RAISE EXCEPTION 'task % of warehouse % cannot take its reserved units: %',
                p_task, p_warehouse, v_move.outcome USING ERRCODE = 'data_corrupted';
        END IF;
        v_on_hand := v_move.from_on_hand;
        v_transaction := v_move.transaction_id;
        UPDATE reservations r SET status = 'PICKED', quantity = p_quantity
            WHERE r.tenant_id = p_tenant AND r.warehouse_id = p_warehouse
                AND r.reservation_id = v_task.reservation_id;
    ELSE
        UPDATE inventory_master m SET reserved = m.reserved - v_task.quantity
            WHERE m.tenant_id = p_tenant AND m.warehouse_id = p_warehouse AND m.sku_id = v_task.sku_id
                AND m.location_id = v_task.location_id
            RETURNING m.on_hand INTO v_on_hand;
        UPDATE reservations r SET status = 'RELEASED'
            WHERE r.tenant_id = p_tenant AND r.warehouse_id = p_warehouse
                AND r.reservation_id = v_task.reservation_id;
        -- move_stock tells of the others.
        PERFORM emit_event(p_tenant, 'stock.released', 'sku', v_task.sku,
            jsonb_build_object('warehouse_id', p_warehouse));
    END IF;
    UPDATE order_lines l SET allocated = l.allocated - v_task.quantity, picked = l.picked + p_quantity
        WHERE l.tenant_id = p_tenant AND l.warehouse_id = p_warehouse AND l.order_id = v_task.order_id
            AND l.line_number = v_task.line_number;
    -- Every open task has its reservation, and every open reservation is part of a line's `allocated`.
    order_done := NOT EXISTS (
        SELECT FROM order_lines l
        WHERE l.tenant_id = p_tenant AND l.warehouse_id = p_warehouse AND l.order_id = v_task.order_id
            AND l.allocated > 0);
    wave_id := v_task.wave_id;
    IF order_done THEN
        UPDATE orders o SET status = 'PICKED', updated_at = now()
            WHERE o.tenant_id = p_tenant AND o.warehouse_id = p_warehouse AND o.order_id = v_task.order_id;
        PERFORM emit_event(p_tenant, 'order.picked', 'order', v_task.order_id::text,
            jsonb_build_object('warehouse_id', p_warehouse));
    END IF;
    outcome := 'done';
    answer := jsonb_build_object(
        'id', p_task, 'sku', v_task.sku, 'status', v_state, 'quantity', v_task.quantity, 'picked', p_quantity,
        'order_id', v_task.order_id, 'order_status', CASE WHEN order_done THEN 'PICKED' ELSE 'PICKING' END,
        'transaction_id', v_transaction, 'on_hand', v_on_hand);
END $$;

-- Confirms one pick. Refusals: those of settle_pick.
CREATE FUNCTION confirm_pick(
    p_tenant bigint, p_key text, p_hash bytea, p_warehouse bigint, p_task bigint, p_quantity bigint,
    OUT outcome text, OUT answer text
)
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    v_pick record;
BEGIN
    SELECT c.outcome, c.answer INTO outcome, answer FROM claim_key(p_tenant, p_key, p_hash) c;
    IF outcome IS NOT NULL THEN
        RETURN;
    END IF;
    v_pick := settle_pick(p_tenant, p_warehouse, p_task, p_quantity);
    outcome := v_pick.outcome;
    answer := v_pick.answer::text;
    IF outcome <> 'done' THEN
        RETURN;
    END IF;
    PERFORM keep_answer(p_tenant, p_key, p_hash, v_pick.answer);
    IF v_pick.order_done THEN
        PERFORM finish_waves(p_tenant, p_warehouse, ARRAY[v_pick.wave_id]);
    END IF;
END $$;

-- Confirms many picks, all or none; each task is given once. Refusals: those of settle_pick, for the first task in the
-- order of balances that is refused.
CREATE FUNCTION confirm_picks(
    p_tenant bigint, p_key text, p_hash bytea, p_warehouse bigint, p_tasks bigint[], p_quantities bigint[],
    OUT outcome text, OUT answer text
)
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    v_orders bigint[];
    v_asked  record;
    v_pick   record;
    v_waves  bigint[] := '{}';
    v_answer jsonb := '[]';
BEGIN
    SELECT c.outcome, c.answer INTO outcome, answer FROM claim_key(p_tenant, p_key, p_hash) c;
    IF outcome IS NOT NULL THEN
        RETURN;
    END IF;
    v_orders := ARRAY(
        SELECT DISTINCT t.order_id FROM pick_tasks t
        WHERE t.tenant_id = p_tenant AND t.warehouse_id = p_warehouse AND t.task_id = ANY (p_tasks));
    PERFORM FROM orders o
        WHERE o.tenant_id = p_tenant AND o.warehouse_id = p_warehouse AND o.order_id = ANY (v_orders)
        ORDER BY o.order_id FOR NO KEY UPDATE;
    BEGIN
        FOR v_asked IN
            SELECT x.task_id, x.quantity
            FROM unnest(p_tasks, p_quantities) x (task_id, quantity)
            LEFT JOIN pick_tasks t ON t.tenant_id = p_tenant AND t.warehouse_id = p_warehouse
                AND t.task_id = x.task_id
            -- Balances are locked as they are met.
            ORDER BY t.sku_id NULLS FIRST, t.location_id, x.task_id
        LOOP
            v_pick := settle_pick(p_tenant, p_warehouse, v_asked.task_id, v_asked.quantity);
            IF v_pick.outcome <> 'done' THEN
                outcome := v_pick.outcome;
                answer := v_pick.answer::text;
                -- Undoes the picks before this one; caught right below.
                RAISE EXCEPTION 'refused' USING ERRCODE = 'WM001';
            END IF;
            v_answer := v_answer || v_pick.answer;
            IF v_pick.order_done THEN
                v_waves := v_waves || v_pick.wave_id;
            END IF;
        END LOOP;
    EXCEPTION WHEN SQLSTATE 'WM001' THEN
        RETURN;
    END;
    v_answer := jsonb_build_object('picks', v_answer);
    PERFORM keep_answer(p_tenant, p_key, p_hash, v_answer);
    PERFORM finish_waves(p_tenant, p_warehouse, v_waves);
    outcome := 'done';
    answer := v_answer::text;
END $$;


-- Shipments

-- The shipments of a warehouse, newest (highest id) first, below p_after (NULL: from the start), in one state or in any.
CREATE FUNCTION shipments_page(p_tenant bigint, p_warehouse bigint, p_status text, p_after bigint, p_limit integer)
    RETURNS TABLE (shipment_id bigint, shipment_number text, order_id bigint, carrier text, tracking_code text,
        status text, created_at timestamptz, updated_at timestamptz)
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    v_below bigint := coalesce(p_after, 9223372036854775807);
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant::text, true);
    IF p_status IS NULL THEN
        RETURN QUERY
            SELECT s.shipment_id, s.shipment_number, s.order_id, s.carrier, s.tracking_code, s.status, s.created_at,
                s.updated_at
            FROM shipments s
            WHERE s.tenant_id = p_tenant AND s.warehouse_id = p_warehouse AND s.shipment_id < v_below
            ORDER BY s.shipment_id DESC LIMIT p_limit;
    ELSE
        RETURN QUERY
            SELECT s.shipment_id, s.shipment_number, s.order_id, s.carrier, s.tracking_code, s.status, s.created_at,
                s.updated_at
            FROM shipments s
            WHERE s.tenant_id = p_tenant AND s.warehouse_id = p_warehouse AND s.status = p_status
                AND s.shipment_id < v_below
            ORDER BY s.shipment_id DESC LIMIT p_limit;
    END IF;
END $$;

-- Packs what was picked of an order. Refusals: unknown_order, illegal_move ({"state"} of the order), nothing_picked,
-- already_packed ({"shipment_number"}), number_taken.
CREATE FUNCTION create_shipment(
    p_tenant bigint, p_key text, p_hash bytea, p_warehouse bigint, p_order bigint, p_number text, p_carrier text,
    OUT outcome text, OUT answer text
)
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    v_status   text;
    v_other    text;
    v_shipment shipments%ROWTYPE;
    v_answer   jsonb;
BEGIN
    SELECT c.outcome, c.answer INTO outcome, answer FROM claim_key(p_tenant, p_key, p_hash) c;
    IF outcome IS NOT NULL THEN
        RETURN;
    END IF;
    SELECT o.status INTO v_status FROM orders o
        WHERE o.tenant_id = p_tenant AND o.warehouse_id = p_warehouse AND o.order_id = p_order FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        outcome := 'unknown_order';
        RETURN;
    END IF;
    IF v_status <> 'PICKED' THEN
        outcome := 'illegal_move';
        answer := jsonb_build_object('state', v_status)::text;
        RETURN;
    END IF;
    IF NOT EXISTS (SELECT FROM order_lines l
            WHERE l.tenant_id = p_tenant AND l.warehouse_id = p_warehouse AND l.order_id = p_order
                AND l.picked > 0) THEN
        outcome := 'nothing_picked';
        RETURN;
    END IF;
    SELECT s.shipment_number INTO v_other FROM shipments s
        WHERE s.tenant_id = p_tenant AND s.warehouse_id = p_warehouse AND s.order_id = p_order
            AND s.status <> 'CANCELLED';
    IF FOUND THEN
        outcome := 'already_packed';
        answer := jsonb_build_object('shipment_number', v_other)::text;
        RETURN;
    END IF;
    INSERT INTO shipments AS s (tenant_id, warehouse_id, shipment_number, order_id, carrier)
        VALUES (p_tenant, p_warehouse, p_number, p_order, p_carrier)
        ON CONFLICT (tenant_id, shipment_number) DO NOTHING
        RETURNING s.* INTO v_shipment;
    IF NOT FOUND THEN
        outcome := 'number_taken';
        RETURN;
    END IF;
    v_answer := shipment_document(v_shipment);
    PERFORM keep_answer(p_tenant, p_key, p_hash, v_answer);
    PERFORM emit_event(p_tenant, 'shipment.packed', 'shipment', v_shipment.shipment_id::text,
        jsonb_build_object('warehouse_id', p_warehouse, 'order_id', p_order));
    outcome := 'done';
    answer := v_answer::text;
END $$;

-- Moves a shipment: p_action is dispatch (with p_tracking; its order is SHIPPED then), deliver or cancel. Refusals:
-- unknown_shipment, illegal_move ({"state"}).
CREATE FUNCTION move_shipment(
    p_tenant bigint, p_key text, p_hash bytea, p_warehouse bigint, p_shipment bigint, p_action text, p_tracking text,
    OUT outcome text, OUT answer text
)
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    v_from     text := CASE p_action WHEN 'deliver' THEN 'DISPATCHED' ELSE 'PACKED' END;
    v_to       text := CASE p_action WHEN 'dispatch' THEN 'DISPATCHED' WHEN 'deliver' THEN 'DELIVERED'
        WHEN 'cancel' THEN 'CANCELLED' END;
    v_shipment shipments%ROWTYPE;
    v_answer   jsonb;
BEGIN
    IF v_to IS NULL THEN
        RAISE EXCEPTION 'p_action is %, allowed: dispatch, deliver, cancel', p_action
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT c.outcome, c.answer INTO outcome, answer FROM claim_key(p_tenant, p_key, p_hash) c;
    IF outcome IS NOT NULL THEN
        RETURN;
    END IF;
    -- Which order it is never changes.
    SELECT * INTO v_shipment FROM shipments s
        WHERE s.tenant_id = p_tenant AND s.warehouse_id = p_warehouse AND s.shipment_id = p_shipment;
    IF NOT FOUND THEN
        outcome := 'unknown_shipment';
        RETURN;
    END IF;
    PERFORM FROM orders o
        WHERE o.tenant_id = p_tenant AND o.warehouse_id = p_warehouse AND o.order_id = v_shipment.order_id
        FOR NO KEY UPDATE;
    UPDATE shipments s
        SET status = v_to, tracking_code = coalesce(p_tracking, s.tracking_code), updated_at = now()
        WHERE s.tenant_id = p_tenant AND s.warehouse_id = p_warehouse AND s.shipment_id = p_shipment
            AND s.status = v_from
        RETURNING s.* INTO v_shipment;
    IF NOT FOUND THEN
        outcome := 'illegal_move';
        SELECT jsonb_build_object('state', s.status)::text INTO answer FROM shipments s
            WHERE s.tenant_id = p_tenant AND s.warehouse_id = p_warehouse AND s.shipment_id = p_shipment;
        RETURN;
    END IF;
    IF p_action = 'dispatch' THEN
        UPDATE orders o SET status = 'SHIPPED', updated_at = now()
            WHERE o.tenant_id = p_tenant AND o.warehouse_id = p_warehouse AND o.order_id = v_shipment.order_id;
        PERFORM emit_event(p_tenant, 'order.shipped', 'order', v_shipment.order_id::text,
            jsonb_build_object('warehouse_id', p_warehouse));
    END IF;
    v_answer := shipment_document(v_shipment);
    PERFORM keep_answer(p_tenant, p_key, p_hash, v_answer);
    PERFORM emit_event(p_tenant, 'shipment.' || lower(v_to), 'shipment', p_shipment::text,
        jsonb_build_object('warehouse_id', p_warehouse, 'order_id', v_shipment.order_id));
    outcome := 'done';
    answer := v_answer::text;
END $$;


-- Analytics

-- A warehouse at a glance, as JSON, or NULL when there is no such warehouse: orders by state, tasks and receipts at
-- work, movements of the last 24 hours by the hour (UTC, the present one last), SKUs of the tenant by ABC class.
CREATE FUNCTION analytics_summary(p_tenant bigint, p_warehouse bigint) RETURNS text
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    v_since timestamptz := date_trunc('hour', now(), 'UTC') - interval '23 hours';
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant::text, true);
    IF NOT EXISTS (SELECT FROM warehouses w WHERE w.tenant_id = p_tenant AND w.warehouse_id = p_warehouse) THEN
        RETURN NULL;
    END IF;
    RETURN jsonb_build_object(
        'orders', (
            SELECT coalesce(jsonb_object_agg(x.status, x.n), '{}') FROM (
                SELECT o.status, count(*) AS n FROM orders o
                WHERE o.tenant_id = p_tenant AND o.warehouse_id = p_warehouse GROUP BY o.status
            ) x),
        'picks_open', (
            SELECT count(*) FROM waves w
            JOIN pick_tasks t ON t.tenant_id = w.tenant_id AND t.warehouse_id = w.warehouse_id
                AND t.wave_id = w.wave_id AND t.status = 'OPEN'
            WHERE w.tenant_id = p_tenant AND w.warehouse_id = p_warehouse AND w.status = 'OPEN'),
        'receipts_open', (
            SELECT count(*) FROM receipts r
            WHERE r.tenant_id = p_tenant AND r.warehouse_id = p_warehouse
                AND r.status IN ('EXPECTED', 'RECEIVING')),
        'movements_per_hour', (
            SELECT jsonb_agg(jsonb_build_object(
                    'hour', rfc3339(h.hour), 'count', coalesce(x.n, 0), 'units', coalesce(x.units, 0))
                    ORDER BY h.hour)
            FROM generate_series(v_since, v_since + interval '23 hours', interval '1 hour') h (hour)
            LEFT JOIN (
                SELECT date_trunc('hour', t.created_at, 'UTC') AS hour, count(*) AS n, sum(t.quantity) AS units
                FROM inventory_transactions t
                WHERE t.tenant_id = p_tenant AND t.warehouse_id = p_warehouse AND t.created_at >= v_since
                GROUP BY 1
            ) x ON x.hour = h.hour),
        'abc', (
            SELECT coalesce(jsonb_object_agg(x.abc_class, x.n), '{}') FROM (
                SELECT s.abc_class, count(*) AS n FROM skus s WHERE s.tenant_id = p_tenant GROUP BY s.abc_class
            ) x)
    )::text;
END $$;

GRANT SELECT ON order_rows, pick_rows TO wms_app;
REVOKE ALL ON FUNCTION
    rfc3339(timestamptz), order_document(orders), shipment_document(shipments), wave_document(waves),
    customers_page(bigint, text, integer),
    orders_page(bigint, bigint, text, bigint, integer, boolean, boolean),
    order_lookup(bigint, bigint, bigint, boolean, boolean),
    create_order(bigint, text, bytea, bigint, text, text, integer, text[], bigint[], numeric[]),
    allocate_order(bigint, text, bytea, bigint, bigint), cancel_order(bigint, text, bytea, bigint, bigint),
    emit_reserved(bigint, bigint, bigint, text),
    create_wave(bigint, text, bytea, bigint, bigint[]), wave_lookup(bigint, bigint, bigint),
    picks_page(bigint, bigint, bigint, text, bigint, integer, integer), finish_waves(bigint, bigint, bigint[]),
    settle_pick(bigint, bigint, bigint, bigint), confirm_pick(bigint, text, bytea, bigint, bigint, bigint),
    confirm_picks(bigint, text, bytea, bigint, bigint[], bigint[]),
    shipments_page(bigint, bigint, text, bigint, integer),
    create_shipment(bigint, text, bytea, bigint, bigint, text, text),
    move_shipment(bigint, text, bytea, bigint, bigint, text, text),
    analytics_summary(bigint, bigint)
    FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
    rfc3339(timestamptz), order_document(orders), shipment_document(shipments), wave_document(waves),
    customers_page(bigint, text, integer),
    orders_page(bigint, bigint, text, bigint, integer, boolean, boolean),
    order_lookup(bigint, bigint, bigint, boolean, boolean),
    create_order(bigint, text, bytea, bigint, text, text, integer, text[], bigint[], numeric[]),
    allocate_order(bigint, text, bytea, bigint, bigint), cancel_order(bigint, text, bytea, bigint, bigint),
    emit_reserved(bigint, bigint, bigint, text),
    create_wave(bigint, text, bytea, bigint, bigint[]), wave_lookup(bigint, bigint, bigint),
    picks_page(bigint, bigint, bigint, text, bigint, integer, integer), finish_waves(bigint, bigint, bigint[]),
    settle_pick(bigint, bigint, bigint, bigint), confirm_pick(bigint, text, bytea, bigint, bigint, bigint),
    confirm_picks(bigint, text, bytea, bigint, bigint[], bigint[]),
    shipments_page(bigint, bigint, text, bigint, integer),
    create_shipment(bigint, text, bytea, bigint, bigint, text, text),
    move_shipment(bigint, text, bytea, bigint, bigint, text, text),
    analytics_summary(bigint, bigint)
    TO wms_app;
