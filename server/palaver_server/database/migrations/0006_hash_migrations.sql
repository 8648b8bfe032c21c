-- The SHA-256 of the migration's SQL without comments and white space. NULL: it was applied before
-- this column was there; the migration that adds it fills it in.
ALTER TABLE schema_migrations ADD COLUMN sql_hash text;
