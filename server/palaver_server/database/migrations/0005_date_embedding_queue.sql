-- When the message was queued; the metrics report the age of the oldest.
ALTER TABLE embedding_queue ADD COLUMN queued_at timestamptz NOT NULL DEFAULT now();
