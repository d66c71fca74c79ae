-- A role of its own for what is done for all tenants: the relay, the periodic jobs, the list of what to warm, and
-- forgetting. The role of requests, wms_app, calls none of it any more, so a fault in a handler reaches no event and no
-- row of another tenant (docs/adr/0041-worker-role.md). wms_worker may read no table: these functions are all it has.
--
-- A service of before this migration cannot publish events until it is restarted; they wait in the outbox.

REVOKE EXECUTE ON FUNCTION
    forget_idempotency_keys(integer),
    forget_sessions(integer),
    relay_turn(text, integer, bigint, integer),
    forget_events(integer, integer),
    claim_job(text, text, integer, integer),
    finish_job(text, text),
    classify_abc(integer),
    warm_warehouses(),
    warm_skus(integer, integer),
    -- Only the sample data ask it, as the owner; the service asks principal_of_api_key.
    tenant_of_api_key(bytea)
    FROM wms_app;

GRANT EXECUTE ON FUNCTION
    forget_idempotency_keys(integer),
    forget_sessions(integer),
    relay_turn(text, integer, bigint, integer),
    forget_events(integer, integer),
    claim_job(text, text, integer, integer),
    finish_job(text, text),
    classify_abc(integer),
    warm_warehouses(),
    warm_skus(integer, integer)
    TO wms_worker;

-- The one table of which wms_app could update every column: now the key of a row stays what it is there, too.
REVOKE UPDATE ON idempotency_keys FROM wms_app;
GRANT UPDATE (request_hash, answer, created_at) ON idempotency_keys TO wms_app;
