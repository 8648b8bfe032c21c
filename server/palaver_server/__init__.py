"""The Palaver server: sessions and memories of conversational apps, over gRPC and PostgreSQL."""

import os

# gRPC's fork support would pause its threads during calls, and the server does not need it: the
# only fork starts the embedded PostgreSQL and calls exec at once. gRPC reads the variable when it
# is first imported.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
