-- migrate: no transaction
-- Indexes on tables that are large and in use by the time they arrive: built beside the traffic.

-- Row D1.
CREATE INDEX CONCURRENTLY skus_name ON skus USING gin (to_tsvector('portuguese', name));
-- The same for whoever types "valvula": skus_matching (0005) asks both.
CREATE INDEX CONCURRENTLY skus_name_folded ON skus USING gin (to_tsvector('portuguese', fold_accents(name)));
-- Without them the planner takes a word that two names in a thousand have for one that half of them have.
ANALYZE skus;

-- The ledger of one SKU (movements_page). A partitioned table cannot be indexed concurrently as a whole: its own index
-- comes first, empty and invalid, then one for each month beside the traffic, and each joins it. With the last one it
-- becomes valid. Months made in between get theirs when they are attached.
CREATE INDEX IF NOT EXISTS inventory_transactions_sku
    ON ONLY inventory_transactions (tenant_id, warehouse_id, sku_id, transaction_id);
-- migrate: each
SELECT format('CREATE INDEX CONCURRENTLY %I ON %s (tenant_id, warehouse_id, sku_id, transaction_id)',
        c.relname || '_sku', c.oid::regclass)
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'inventory_transactions'::regclass
        AND NOT EXISTS (SELECT FROM pg_inherits p JOIN pg_index x ON x.indexrelid = p.inhrelid
            WHERE p.inhparent = 'inventory_transactions_sku'::regclass AND x.indrelid = c.oid)
    ORDER BY c.relname;
-- migrate: each
SELECT format('ALTER INDEX inventory_transactions_sku ATTACH PARTITION %s', x.indexrelid::regclass)
    FROM pg_inherits i
    JOIN pg_class c ON c.oid = i.inhrelid
    JOIN pg_index x ON x.indrelid = c.oid
    JOIN pg_class n ON n.oid = x.indexrelid AND n.relname = c.relname || '_sku'
    WHERE i.inhparent = 'inventory_transactions'::regclass AND NOT n.relispartition
    ORDER BY c.relname;
