"""The empty server: every method returns an empty response, with Palaver's runtime and options.

    python -m bench.empty_server PORT

A call to it costs what every Python gRPC service spends per call, so it serves as the floor.
"""

import asyncio
import sys
from typing import Any

import grpc
import uvloop
from google.protobuf.empty_pb2 import Empty

from palaver_server.bootstrap.server import connection_options
from palaver_server.config import Settings

_NOTHING = Empty()


async def _answer(_request: Empty, _context: grpc.aio.ServicerContext[Empty, Empty]) -> Empty:
    return _NOTHING


class _EveryMethod(grpc.GenericRpcHandler):
    def __init__(self) -> None:
        self._handler = grpc.unary_unary_rpc_method_handler(
            _answer, Empty.FromString, Empty.SerializeToString
        )

    def service(self, _details: grpc.HandlerCallDetails) -> Any:
        """Return the same handler for every method."""
        return self._handler


async def serve(port: int, methods: grpc.GenericRpcHandler) -> None:
    """Serve methods with Palaver's runtime and options until the process ends."""
    settings = Settings.model_construct()
    options = connection_options(settings, settings.max_connections)
    server = grpc.aio.server(options=options)
    server.add_generic_rpc_handlers((methods,))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), _EveryMethod()))
