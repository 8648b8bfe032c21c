"""Which sessions and messages are live: the SQL conditions that every statement uses.

A session is deleted by a write, which sets `deleted_at`, or by its expiry: from `expires_at` on, it
counts as deleted at that instant, also as long as no write has recorded it (see `expiry`). now(),
the start of the transaction: all statements of a transaction agree on what has expired.
"""

# The session `s`.
LIVE_SESSION = "s.deleted_at IS NULL AND (s.expires_at IS NULL OR s.expires_at > now())"
EXPIRED_SESSION = "s.deleted_at IS NULL AND s.expires_at <= now()"

# The message `m`, where the statement does not find it through its live session. PostgreSQL reads
# the expired sessions once for a statement, by an index of the sessions that may expire.
LIVE_MESSAGE = f"""
    m.deleted_at IS NULL
    AND m.session_id NOT IN (SELECT s.session_id FROM sessions s WHERE {EXPIRED_SESSION})
"""
