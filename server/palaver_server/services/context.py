"""The context of a call: gRPC's, as the type checker sees it, and the caller's access scope."""

from typing import Any, TypeAlias

import grpc

from palaver_server.auth.access import EVERYTHING, Access
from palaver_server.auth.principal import PRINCIPAL

# A string: at run time the class is not generic.
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


def caller_access() -> Access:
    """Return the access scope of the caller; everything if authentication is off."""
    principal = PRINCIPAL.get()
    return EVERYTHING if principal is None else principal.access
