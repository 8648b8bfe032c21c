"""The purge: removes rows permanently once they were soft-deleted long enough ago."""
