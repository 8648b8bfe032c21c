"""The context of a call, as the type checker sees it: at run time the class is not generic."""

from typing import Any, TypeAlias

import grpc

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
