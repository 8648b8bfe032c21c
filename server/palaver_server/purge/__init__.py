"""The purge: removes rows for good that were deleted long enough ago."""
