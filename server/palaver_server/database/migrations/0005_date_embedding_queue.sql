-- For how long a message has waited for its vector, which the metrics tell.
ALTER TABLE embedding_queue ADD COLUMN queued_at timestamptz NOT NULL DEFAULT now();
