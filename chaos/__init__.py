"""The chaos run: all kinds of calls while processes are killed and frozen, against a ledger."""

import palaver_server  # noqa: F401 - sets how gRPC handles forks, before gRPC is loaded
