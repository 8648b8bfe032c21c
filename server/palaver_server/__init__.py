"""The Palaver server."""

import os

# The one fork is that of the embedded PostgreSQL, which replaces the new process at once:
# gRPC's own care for forks would only stop its threads in the middle of calls. It reads
# this when it is first imported.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
