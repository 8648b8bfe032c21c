-- The lease of the purger that is at work, in at most one row. Each batch of a purge renews it in its
-- own transaction, so the lease of a purger that crashed expires.
CREATE TABLE purge_lease (
    is_only    boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    holder     text,
    expires_at timestamptz NOT NULL
);
