-- `revision` counts the changes of a row's own fields, its deletion and its return. Triggers count,
-- not the statements: a server of the version before writes next to this one, and does not know the
-- column. The messages of a session and its updated_at are not fields of its own.

ALTER TABLE sessions ADD COLUMN revision bigint NOT NULL DEFAULT 1;
ALTER TABLE users ADD COLUMN revision bigint NOT NULL DEFAULT 1;
ALTER TABLE messages ADD COLUMN revision bigint NOT NULL DEFAULT 1;

CREATE FUNCTION count_revision() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.revision := OLD.revision + 1;
    RETURN NEW;
END $$;

-- A message is deleted without a trigger, since many messages may be deleted at once. Its deletion is
-- counted when its ID is used again.
CREATE FUNCTION count_message_revision() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.revision := OLD.revision + CASE WHEN OLD.deleted_at IS NULL THEN 1 ELSE 2 END;
    RETURN NEW;
END $$;

-- Citus refuses triggers otherwise. These change only the row that they are called for.
SET LOCAL citus.enable_unsafe_triggers = on;

-- Two triggers: adding messages sets deleted_at, and need not compare the metadata.
CREATE TRIGGER sessions_count_changes
    BEFORE UPDATE OF user_id, metadata ON sessions FOR EACH ROW
    WHEN (OLD.user_id IS DISTINCT FROM NEW.user_id OR OLD.metadata IS DISTINCT FROM NEW.metadata)
    EXECUTE FUNCTION count_revision();

CREATE TRIGGER sessions_count_lives
    BEFORE UPDATE OF deleted_at ON sessions FOR EACH ROW
    WHEN ((OLD.deleted_at IS NULL) <> (NEW.deleted_at IS NULL))
    EXECUTE FUNCTION count_revision();

CREATE TRIGGER users_count_changes
    BEFORE UPDATE ON users FOR EACH ROW
    WHEN ((OLD.filled_in, OLD.email, OLD.first_name, OLD.last_name, OLD.metadata, OLD.deleted_at)
        IS DISTINCT FROM
        (NEW.filled_in, NEW.email, NEW.first_name, NEW.last_name, NEW.metadata, NEW.deleted_at))
    EXECUTE FUNCTION count_revision();

CREATE TRIGGER messages_count_changes
    BEFORE UPDATE OF role, content, token_count, metadata ON messages FOR EACH ROW
    WHEN ((OLD.role, OLD.content, OLD.token_count, OLD.metadata, OLD.deleted_at)
        IS DISTINCT FROM (NEW.role, NEW.content, NEW.token_count, NEW.metadata, NEW.deleted_at))
    EXECUTE FUNCTION count_message_revision();
