"""The log handler: order and time of writes."""

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from palaver_server.process.logging_setup import (
    BurstHandler,
    JsonFormatter,
    keep_grpc_to_the_log,
    shorten_abandoned_call,
)
from tests.conftest import Run


class ExecuteBatchError(Exception):
    """An error that gRPC raises, from a module without types."""


class Stream(io.StringIO):
    """A stream that records each write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[str] = []

    def write(self, text: str) -> int:
        self.writes.append(text)
        return super().write(text)


@pytest.fixture
def stream() -> Stream:
    return Stream()


@pytest.fixture
def logger(stream: Stream) -> Iterator[logging.Logger]:
    logger = logging.getLogger(__name__)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    handler = BurstHandler(stream)
    logger.addHandler(handler)
    yield logger
    logger.removeHandler(handler)


def test_log_lines_of_one_loop_turn_are_one_write(logger: logging.Logger, stream: Stream) -> None:
    async def log() -> None:
        logger.info("one")
        logger.info("two")
        assert stream.writes == []
        await asyncio.sleep(0)
        assert stream.writes == ["one\ntwo\n"]
        logger.info("three")

    asyncio.run(log())

    assert stream.writes == ["one\ntwo\n", "three\n"]


def test_log_warning_is_written_at_once_in_order(logger: logging.Logger, stream: Stream) -> None:
    async def log() -> None:
        logger.info("one")
        logger.warning("two")
        assert stream.writes == ["one\ntwo\n"]
        logger.info("three")

    asyncio.run(log())

    assert stream.getvalue() == "one\ntwo\nthree\n"


def test_log_of_thread_without_loop_is_written_at_once(
    logger: logging.Logger, stream: Stream
) -> None:
    async def log() -> None:
        logger.info("one")
        await asyncio.to_thread(logger.info, "two")
        logger.info("three")

    logger.info("zero")
    assert stream.writes == ["zero\n"]
    asyncio.run(log())

    assert stream.getvalue() == "zero\none\ntwo\nthree\n"


def test_log_of_invalid_unicode_is_written(logger: logging.Logger, stream: Stream) -> None:
    logger.handlers[0].setFormatter(JsonFormatter())

    logger.info("a name", extra={"fields": {"principal": "\ud800"}})

    assert json.loads(stream.getvalue())["principal"] == "\ud800"


@pytest.mark.parametrize("error", [ExecuteBatchError("SendMessage"), asyncio.CancelledError()])
def test_log_of_call_already_over_is_no_error(
    logger: logging.Logger, stream: Stream, error: BaseException
) -> None:
    logger.addFilter(shorten_abandoned_call)

    logger.error("raised by servicer method [%s]", "/palaver.v1.S/M", exc_info=error)

    assert stream.getvalue() == (
        "a call ended before its response was sent: raised by servicer method [/palaver.v1.S/M]\n"
    )


def test_log_of_grpc_task_cancelled_as_its_call_ends_is_not_printed_too(
    run: Run, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    keep_grpc_to_the_log()

    run(cancel_both_tasks_of_a_call())

    assert "Exception not handled" in caplog.text  # gRPC did come to the place where it prints
    assert capfd.readouterr().err == ""


async def cancel_both_tasks_of_a_call() -> None:
    """Cancel a call as its client does, and gRPC's other task in the turn in which it ends."""
    started = asyncio.Event()

    async def handle(_request: bytes, _context: Any) -> bytes:
        (outer,) = (task for task in asyncio.all_tasks() if task.get_name() == "rpc_task")
        if task := asyncio.current_task():
            task.add_done_callback(lambda _: outer.cancel())
        started.set()
        return await asyncio.Future()

    handlers: dict[str, Any] = {"M": grpc.unary_unary_rpc_method_handler(handle)}
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("S", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        method: Any = channel.unary_unary("/S/M")
        call = method(b"")
        await started.wait()
        call.cancel()
    await server.stop(None)
