"""The end of the event loop, with handlers that outlast their calls."""

import asyncio
from typing import Any

import grpc
import pytest

from palaver_server.transport.shutdown import wait_for_ended_calls


class Handlers(grpc.GenericRpcHandler):
    """A method that a cancellation does not end at once, as when the database is silent."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.may_end = asyncio.Event()

    def service(self, _details: grpc.HandlerCallDetails) -> Any:
        return grpc.unary_unary_rpc_method_handler(self.handle)

    async def handle(self, _request: bytes, _context: Any) -> bytes:
        self.started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await self.may_end.wait()
            raise
        return b""


def test_shutdown_answers_caller_of_handler_that_outlasts_it_and_logs_no_traceback(
    capfd: pytest.CaptureFixture[str],
) -> None:
    async def serve() -> grpc.StatusCode:
        handlers = Handlers()
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((handlers,))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            method: Any = channel.unary_unary("/test/Handle")
            call = method(b"")
            await handlers.started.wait()
            await server.stop(0)
            code: grpc.StatusCode = await call.code()
        handlers.may_end.set()
        await wait_for_ended_calls()
        return code

    assert asyncio.run(serve()) is grpc.StatusCode.UNAVAILABLE
    assert "Traceback" not in capfd.readouterr().err
