-- API keys made and revoked, users put out of action and passwords changed through the API, and what tells every
-- process which sessions and keys have ended, so that it need not believe a credential until that runs out.

-- The subject of the principal that made the key: key:<id> or user:<id>.
ALTER TABLE api_keys ADD created_by text NOT NULL DEFAULT 'setup' CHECK (created_by <> '');
ALTER TABLE sessions DROP CONSTRAINT sessions_end_reason_check;
ALTER TABLE sessions ADD CONSTRAINT sessions_end_reason_check
    CHECK (end_reason IN ('signed-out', 'reuse', 'deactivated', 'password'));

-- The hash of a key is for principal_of_api_key alone to look at.
GRANT SELECT (tenant_id, api_key_id, name, role, tier, created_at, created_by, revoked_at) ON api_keys TO wms_app;
GRANT INSERT (tenant_id, key_hash, name, role, tier, created_by) ON api_keys TO wms_app;
GRANT UPDATE (revoked_at) ON api_keys TO wms_app;
GRANT UPDATE (active, password_hash) ON users TO wms_app;

-- A page of the tenant's keys after p_after (NULL: from the start), by id.
CREATE FUNCTION api_key_page(p_tenant bigint, p_after bigint, p_limit integer)
    RETURNS TABLE (api_key_id bigint, name text, role text, tier text, created_at timestamptz, created_by text,
        revoked_at timestamptz)
    LANGUAGE plpgsql VOLATILE
    AS $$
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant::text, true);
    RETURN QUERY
        SELECT k.api_key_id, k.name, k.role, k.tier, k.created_at, k.created_by, k.revoked_at FROM api_keys k
        WHERE k.tenant_id = p_tenant AND k.api_key_id > coalesce(p_after, 0)
        ORDER BY k.api_key_id LIMIT p_limit;
END $$;

-- A command (0004). p_secret is the SHA-256 of the key itself. It is in the answer too, which is kept for repeated
-- requests: from it the service sees whether the key that it holds is the one that was made. outcome: done, or one of
-- claim_key's.
CREATE FUNCTION create_api_key(
    p_tenant bigint, p_key text, p_hash bytea, p_secret bytea, p_name text, p_role text, p_tier text, p_by text,
    OUT outcome text, OUT answer text
)
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    v_id      bigint;
    v_created timestamptz;
    v_answer  jsonb;
BEGIN
    SELECT * INTO outcome, answer FROM claim_key(p_tenant, p_key, p_hash);
    IF outcome IS NOT NULL THEN
        RETURN;
    END IF;
    INSERT INTO api_keys AS k (tenant_id, key_hash, name, role, tier, created_by)
        VALUES (p_tenant, p_secret, p_name, p_role, p_tier, p_by)
        RETURNING k.api_key_id, k.created_at INTO v_id, v_created;
    v_answer := jsonb_build_object(
        'api_key_id', v_id, 'name', p_name, 'role', p_role, 'tier', p_tier, 'created_at', v_created,
        'created_by', p_by, 'revoked_at', NULL, 'secret', encode(p_secret, 'hex'));
    PERFORM keep_answer(p_tenant, p_key, p_hash, v_answer);
    PERFORM emit_event(p_tenant, 'api_key.created', 'api_key', v_id::text);
    outcome := 'done';
    answer := v_answer::text;
END $$;

-- Revokes one key, for good. Safe to repeat. outcome: done (answer: the key) or unknown_key.
CREATE FUNCTION revoke_api_key(p_tenant bigint, p_id bigint, OUT outcome text, OUT answer text)
    LANGUAGE plpgsql VOLATILE
    AS $$
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant::text, true);
    UPDATE api_keys k SET revoked_at = now()
        WHERE k.tenant_id = p_tenant AND k.api_key_id = p_id AND k.revoked_at IS NULL;
    IF FOUND THEN
        PERFORM emit_event(p_tenant, 'api_key.revoked', 'api_key', p_id::text);
    END IF;
    SELECT jsonb_build_object(
        'api_key_id', k.api_key_id, 'name', k.name, 'role', k.role, 'tier', k.tier, 'created_at', k.created_at,
        'created_by', k.created_by, 'revoked_at', k.revoked_at)::text INTO answer
        FROM api_keys k WHERE k.tenant_id = p_tenant AND k.api_key_id = p_id;
    outcome := CASE WHEN answer IS NULL THEN 'unknown_key' ELSE 'done' END;
END $$;

-- Ends all open sessions of a user but p_but (0: all of them); returns how many. Only within a transaction that has
-- named its tenant.
CREATE FUNCTION end_sessions_of(p_tenant bigint, p_user bigint, p_but bigint, p_reason text) RETURNS bigint
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    v_ended bigint;
BEGIN
    UPDATE sessions s SET ended_at = now(), end_reason = p_reason
        WHERE s.tenant_id = p_tenant AND s.user_id = p_user AND s.session_id <> p_but AND s.ended_at IS NULL;
    GET DIAGNOSTICS v_ended = ROW_COUNT;
    RETURN v_ended;
END $$;

-- Lets a user in again, or puts it out and ends its sessions. Safe to repeat. outcome: done (answer: username, active,
-- roles) or unknown_user.
CREATE FUNCTION set_user_active(p_tenant bigint, p_user bigint, p_active boolean, OUT outcome text, OUT answer text)
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    v_user users%ROWTYPE;
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant::text, true);
    SELECT * INTO v_user FROM users u WHERE u.tenant_id = p_tenant AND u.user_id = p_user FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        outcome := 'unknown_user';
        RETURN;
    END IF;
    IF v_user.active <> p_active THEN
        UPDATE users u SET active = p_active, updated_at = now() WHERE u.tenant_id = p_tenant AND u.user_id = p_user;
        IF NOT p_active THEN
            PERFORM end_sessions_of(p_tenant, p_user, 0, 'deactivated');
        END IF;
        PERFORM emit_event(p_tenant, 'user.changed', 'user', p_user::text);
    END IF;
    outcome := 'done';
    answer := jsonb_build_object(
        'username', v_user.username, 'active', p_active, 'roles', to_jsonb(roles_of(p_tenant, p_user)))::text;
END $$;

-- What a user's old password is compared with; no row when the tenant has no such active user.
CREATE FUNCTION user_password(p_tenant bigint, p_user bigint) RETURNS TABLE (username text, password_hash text)
    LANGUAGE plpgsql VOLATILE
    AS $$
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant::text, true);
    RETURN QUERY
        SELECT u.username, u.password_hash FROM users u
        WHERE u.tenant_id = p_tenant AND u.user_id = p_user AND u.active;
END $$;

-- Puts p_after in the place of p_before, and ends the user's sessions but p_session. Safe to repeat. outcome: done
-- (answer: {"sessions_ended": n}), or changed when the password is not p_before any more, or the user not active.
CREATE FUNCTION change_password(
    p_tenant bigint, p_user bigint, p_before text, p_after text, p_session bigint, OUT outcome text, OUT answer text
)
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    v_now text;
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant::text, true);
    SELECT u.password_hash INTO v_now FROM users u
        WHERE u.tenant_id = p_tenant AND u.user_id = p_user AND u.active FOR NO KEY UPDATE;
    IF v_now IS NULL OR v_now NOT IN (p_before, p_after) THEN
        outcome := 'changed';
        RETURN;
    END IF;
    IF v_now = p_before THEN
        UPDATE users u SET password_hash = p_after, updated_at = now()
            WHERE u.tenant_id = p_tenant AND u.user_id = p_user;
        PERFORM emit_event(p_tenant, 'user.changed', 'user', p_user::text);
    END IF;
    outcome := 'done';
    answer := jsonb_build_object(
        'sessions_ended', end_sessions_of(p_tenant, p_user, p_session, 'password'))::text;
END $$;

-- As in 0007, and of the password that was checked: between the check and the session nobody may have changed it or put
-- the user out. FOR SHARE waits for whoever is about to, FOR KEY SHARE would not.
-- outcome: done (answer: tenant_id, user_id, session_id, roles, tier, expires_at) or unknown_user.
DROP FUNCTION open_session(bigint, bigint, bytea, text, integer);
CREATE FUNCTION open_session(
    p_tenant bigint, p_user bigint, p_password_hash text, p_token bytea, p_tier text, p_seconds integer,
    OUT outcome text, OUT answer text
)
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    v_session sessions%ROWTYPE;
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant::text, true);
    SELECT s.* INTO v_session FROM refresh_tokens t
        JOIN sessions s ON s.tenant_id = t.tenant_id AND s.session_id = t.session_id
        WHERE t.token_hash = p_token AND t.tenant_id = p_tenant;
    IF NOT FOUND THEN
        PERFORM FROM users u
            WHERE u.tenant_id = p_tenant AND u.user_id = p_user AND u.active AND u.password_hash = p_password_hash
            FOR SHARE;
        IF NOT FOUND THEN
            outcome := 'unknown_user';
            RETURN;
        END IF;
        INSERT INTO sessions (tenant_id, user_id, tier, expires_at)
            VALUES (p_tenant, p_user, p_tier, now() + make_interval(secs => p_seconds)) RETURNING * INTO v_session;
        INSERT INTO refresh_tokens (token_hash, tenant_id, session_id)
            VALUES (p_token, p_tenant, v_session.session_id);
    END IF;
    outcome := 'done';
    answer := session_answer(v_session);
END $$;

-- What is told of an open session.
CREATE FUNCTION session_answer(p_session sessions) RETURNS text
    LANGUAGE sql STABLE
    AS $$
    SELECT jsonb_build_object(
        'tenant_id', p_session.tenant_id, 'user_id', p_session.user_id, 'session_id', p_session.session_id,
        'roles', to_jsonb(roles_of(p_session.tenant_id, p_session.user_id)), 'tier', p_session.tier,
        'expires_at', p_session.expires_at)::text
    $$;

-- As in 0007; the answer has the session's id.
CREATE OR REPLACE FUNCTION refresh_session(p_token bytea, p_successor bytea, OUT outcome text, OUT answer text)
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    v_tenant  bigint := tenant_of_refresh_token(p_token);
    v_token   refresh_tokens%ROWTYPE;
    v_session sessions%ROWTYPE;
BEGIN
    IF v_tenant IS NULL THEN
        outcome := 'unknown';
        RETURN;
    END IF;
    PERFORM set_config('app.tenant_id', v_tenant::text, true);
    -- The session's row is what two exchanges wait for; the token is read behind that lock.
    SELECT s.* INTO v_session FROM refresh_tokens t
        JOIN sessions s ON s.tenant_id = t.tenant_id AND s.session_id = t.session_id
        WHERE t.token_hash = p_token FOR NO KEY UPDATE OF s;
    IF NOT FOUND THEN
        outcome := 'unknown';
        RETURN;
    END IF;
    SELECT * INTO v_token FROM refresh_tokens t WHERE t.token_hash = p_token;
    IF v_session.ended_at IS NOT NULL OR v_session.expires_at <= now() OR NOT EXISTS (
            SELECT FROM users u WHERE u.tenant_id = v_tenant AND u.user_id = v_session.user_id AND u.active) THEN
        outcome := 'ended';
        RETURN;
    END IF;
    IF v_token.used_at IS NOT NULL AND v_token.successor IS DISTINCT FROM p_successor THEN
        UPDATE sessions s SET ended_at = now(), end_reason = 'reuse'
            WHERE s.tenant_id = v_tenant AND s.session_id = v_session.session_id;
        outcome := 'reused';
        RETURN;
    END IF;
    IF v_token.used_at IS NULL THEN
        UPDATE refresh_tokens t SET used_at = now(), successor = p_successor WHERE t.token_hash = p_token;
        INSERT INTO refresh_tokens (token_hash, tenant_id, session_id)
            VALUES (p_successor, v_tenant, v_session.session_id);
    END IF;
    outcome := 'done';
    answer := session_answer(v_session);
END $$;

-- What ended in the last p_seconds: sessions, whose access tokens are good no more, and API keys. For every tenant, so
-- it runs as the owner, and for wms_worker only.
CREATE FUNCTION ended_credentials(p_seconds double precision)
    RETURNS TABLE (kind text, tenant_id bigint, id bigint)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT 'session', s.tenant_id, s.session_id FROM public.sessions s
        WHERE s.ended_at > now() - make_interval(secs => p_seconds)
    UNION ALL
    SELECT 'key', k.tenant_id, k.api_key_id FROM public.api_keys k
        WHERE k.revoked_at > now() - make_interval(secs => p_seconds)
    $$;

REVOKE ALL ON FUNCTION api_key_page(bigint, bigint, integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION create_api_key(bigint, text, bytea, bytea, text, text, text, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION revoke_api_key(bigint, bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION end_sessions_of(bigint, bigint, bigint, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION set_user_active(bigint, bigint, boolean) FROM PUBLIC;
REVOKE ALL ON FUNCTION user_password(bigint, bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION change_password(bigint, bigint, text, text, bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION open_session(bigint, bigint, text, bytea, text, integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION session_answer(sessions) FROM PUBLIC;
REVOKE ALL ON FUNCTION ended_credentials(double precision) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
    api_key_page(bigint, bigint, integer),
    create_api_key(bigint, text, bytea, bytea, text, text, text, text),
    revoke_api_key(bigint, bigint),
    end_sessions_of(bigint, bigint, bigint, text),
    set_user_active(bigint, bigint, boolean),
    user_password(bigint, bigint),
    change_password(bigint, bigint, text, text, bigint),
    open_session(bigint, bigint, text, bytea, text, integer),
    session_answer(sessions)
    TO wms_app;
GRANT EXECUTE ON FUNCTION ended_credentials(double precision) TO wms_worker;
