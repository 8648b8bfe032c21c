"""The context of a call: gRPC's, as the type checker sees it."""

from typing import Any, TypeAlias

import grpc

# A string: at run time the class is not generic.
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
