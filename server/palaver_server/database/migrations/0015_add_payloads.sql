-- A payload is opaque to the server, and not compared or read unless a call names it. NULL: none.

ALTER TABLE messages ADD COLUMN payload bytea;
ALTER TABLE messages ADD COLUMN payload_type text;

-- A message cannot come back with the payload of a deleted one: its ID may be used again by a
-- server of the version before, which does not know the columns. The space is free at once, too.
CREATE FUNCTION drop_payload() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.payload := NULL;
    NEW.payload_type := NULL;
    RETURN NEW;
END $$;

-- Citus refuses triggers otherwise. These change only the row that they are called for.
SET LOCAL citus.enable_unsafe_triggers = on;

CREATE TRIGGER messages_drop_payloads
    BEFORE UPDATE OF deleted_at ON messages FOR EACH ROW
    WHEN (NEW.deleted_at IS NOT NULL
        AND (NEW.payload IS NOT NULL OR NEW.payload_type IS NOT NULL))
    EXECUTE FUNCTION drop_payload();

-- Counts what messages_count_changes does not. The payload is compared last, as it may be large.
CREATE TRIGGER messages_count_payloads
    BEFORE UPDATE OF payload, payload_type ON messages FOR EACH ROW
    WHEN ((OLD.role, OLD.content, OLD.token_count, OLD.metadata, OLD.deleted_at)
        IS NOT DISTINCT FROM (NEW.role, NEW.content, NEW.token_count, NEW.metadata, NEW.deleted_at)
        AND (OLD.payload_type, OLD.payload) IS DISTINCT FROM (NEW.payload_type, NEW.payload))
    EXECUTE FUNCTION count_message_revision();
