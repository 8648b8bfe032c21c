-- The SHA-256 of the migration's SQL without comments and white space. NULL: it was applied before
-- this column existed; the migration that adds it sets it.
ALTER TABLE schema_migrations ADD COLUMN sql_hash text;
