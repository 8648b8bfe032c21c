"""The operating system process: logging, embedded PostgreSQL, signals, memory, command name.

Nothing in here imports gRPC or the store.
"""
