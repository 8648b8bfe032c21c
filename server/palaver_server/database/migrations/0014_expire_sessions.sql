-- Sessions that expire: each write to a session or its messages sets `expires_at`. Triggers do, not the
-- statements: a server of the version before writes next to this one, and does not know the columns.

ALTER TABLE sessions
    ADD COLUMN ttl bigint,                              -- in microseconds; NULL: it does not expire
    ADD COLUMN expires_at timestamptz;                  -- NULL: never; else deleted from then on

-- Expired sessions that the purge has not marked as deleted yet; searches leave out their messages.
CREATE INDEX sessions_expiring ON sessions (expires_at)
    WHERE deleted_at IS NULL AND expires_at IS NOT NULL;

-- clock_timestamp(): the statement may have waited for a lock.
CREATE FUNCTION set_session_expiry() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.expires_at := clock_timestamp() + NEW.ttl * interval '1 microsecond';
    RETURN NEW;
END $$;

-- AddSession starts a deleted session again at another position, and sets `expires_at` to NULL. The
-- version before does not, and leaves the TTL of the life before.
CREATE FUNCTION drop_former_ttl() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.ttl := NULL;
    NEW.expires_at := NULL;
    RETURN NEW;
END $$;

-- Citus refuses triggers otherwise. These change only the row that they are called for.
SET LOCAL citus.enable_unsafe_triggers = on;

-- A TTL is one of the session's own fields.
DROP TRIGGER sessions_count_changes ON sessions;

CREATE TRIGGER sessions_count_changes
    BEFORE UPDATE OF user_id, metadata, ttl ON sessions FOR EACH ROW
    WHEN ((OLD.user_id, OLD.metadata, OLD.ttl) IS DISTINCT FROM (NEW.user_id, NEW.metadata, NEW.ttl))
    EXECUTE FUNCTION count_revision();

CREATE TRIGGER sessions_begin_ttl
    BEFORE INSERT ON sessions FOR EACH ROW
    WHEN (NEW.ttl IS NOT NULL)
    EXECUTE FUNCTION set_session_expiry();

-- Triggers run in the order of their names: this one before the next.
CREATE TRIGGER sessions_drop_former_ttl
    BEFORE UPDATE OF id ON sessions FOR EACH ROW
    WHEN (NEW.id <> OLD.id AND NEW.expires_at IS NOT NULL)
    EXECUTE FUNCTION drop_former_ttl();

-- Every write to a session or its messages sets `updated_at`, if only to the same value.
CREATE TRIGGER sessions_extend_ttl
    BEFORE UPDATE OF updated_at ON sessions FOR EACH ROW
    WHEN (NEW.ttl IS NOT NULL OR NEW.expires_at IS NOT NULL)
    EXECUTE FUNCTION set_session_expiry();
