"""The operating system process: logging, embedded PostgreSQL, signals, memory, command name.

Nothing in here knows gRPC or the store.
"""
