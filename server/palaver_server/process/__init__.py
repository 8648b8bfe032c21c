"""The operating system process: logging, embedded PostgreSQL, deferred signals, memory trim."""
