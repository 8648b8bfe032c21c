"""The chaos run: calls of all kinds while everything is killed and frozen, against a ledger."""

import palaver_server  # noqa: F401 - settles how gRPC takes forks, before anything loads it
