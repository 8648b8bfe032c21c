-- GetMemory's pinned roles: the newest messages of a role that few messages of a session have, such
-- as `system`. Most messages have one of the two roles left out, and cost no entry.
CREATE INDEX messages_rare_roles ON messages (session_id, role, sequence)
    WHERE deleted_at IS NULL AND role NOT IN ('user', 'assistant');
