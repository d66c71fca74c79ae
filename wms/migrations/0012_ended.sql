-- migrate: no transaction
-- What every process asks for every few seconds (ended_credentials), and what a user's sessions are found by.
CREATE INDEX CONCURRENTLY sessions_ended ON sessions (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX CONCURRENTLY sessions_user ON sessions (tenant_id, user_id) WHERE ended_at IS NULL;
CREATE INDEX CONCURRENTLY api_keys_revoked ON api_keys (revoked_at) WHERE revoked_at IS NOT NULL;
