"""The siege: one credential attacks, and the callers with other credentials are measured."""

import palaver_server  # noqa: F401 - settles how gRPC takes forks, before anything loads it
