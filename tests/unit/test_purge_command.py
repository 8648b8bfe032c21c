"""`palaver purge` on the client's side: its request and its output."""

import io
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import grpc
import grpc_testing  # type: ignore[import-untyped]
import pytest
from rich.console import Console

from palaver.v1 import admin_service_pb2
from palaver.v1.admin_service_pb2 import PurgeDeletedRequest, PurgeDeletedResponse, PurgeProgress
from palaver_server.cli.purge import purge_with_progress
from tests.support.watching import eventually

SERVICE = admin_service_pb2.DESCRIPTOR.services_by_name["AdminService"]
METHOD = SERVICE.methods_by_name["PurgeDeleted"]


def progress(
    messages: tuple[int, int], sessions: tuple[int, int], users: tuple[int, int]
) -> PurgeDeletedResponse:
    """Return a response with these numbers of done and estimated rows."""
    return PurgeDeletedResponse(
        messages=PurgeProgress(done=messages[0], estimated=messages[1]),
        sessions=PurgeProgress(done=sessions[0], estimated=sessions[1]),
        users=PurgeProgress(done=users[0], estimated=users[1]),
    )


RESPONSES = (
    progress((0, 9), (0, 2), (0, 1)),
    progress((5, 9), (0, 2), (0, 1)),
    progress((9, 9), (2, 2), (1, 1)),
)


class Purge:
    """`purge` in a thread, against a server that the test plays."""

    def __init__(self, executor: ThreadPoolExecutor) -> None:
        self.channel = grpc_testing.channel([SERVICE], grpc_testing.strict_real_time())
        self.screen = io.StringIO()
        self._executor = executor

    @property
    def shown(self) -> str:
        """The text on the screen, without control sequences."""
        return re.sub(r"\x1b\[[^A-Za-z]*[A-Za-z]", "", self.screen.getvalue())

    def start(self, older_than: timedelta | None = None, *, terminal: bool = False) -> Any:
        """Start the command; return the call as the server sees it."""
        console = Console(file=self.screen, force_terminal=terminal, width=80)
        self.ended: Future[None] = self._executor.submit(
            purge_with_progress, self.channel, older_than, console
        )
        _, self.request, call = self.channel.take_unary_stream(METHOD)
        call.send_initial_metadata(())
        return call

    def answer(self, call: Any, responses: Sequence[PurgeDeletedResponse] = RESPONSES) -> str:
        """Answer the call to its end; return the output."""
        for response in responses:
            call.send_response(response)
        call.terminate((), grpc.StatusCode.OK, "")
        self.ended.result(timeout=30)
        return self.shown


@pytest.fixture
def purge() -> Iterator[Purge]:
    with ThreadPoolExecutor(1) as executor:
        yield Purge(executor)


def test_purge_command_prints_line_per_response_and_result(purge: Purge) -> None:
    assert purge.answer(purge.start()) == (
        "messages 0/9, sessions 0/2, users 0/1\n"
        "messages 5/9, sessions 0/2, users 0/1\n"
        "messages 9/9, sessions 2/2, users 1/1\n"
        "purged 9 messages, 2 sessions, 1 users\n"
    )


def test_purge_command_on_terminal_shows_bar_per_kind(purge: Purge) -> None:
    shown = purge.answer(purge.start(terminal=True))

    assert "messages" in shown
    assert "━" in shown
    assert "100%" in shown
    assert shown.endswith("purged 9 messages, 2 sessions, 1 users\n")


def test_purge_command_bar_is_full_above_estimate(purge: Purge) -> None:
    shown = purge.answer(purge.start(terminal=True), [progress((12, 9), (3, 2), (2, 1))])

    assert shown.count("100%") >= 3
    assert shown.endswith("purged 12 messages, 3 sessions, 2 users\n")


def test_purge_command_without_age_leaves_it_to_server(purge: Purge) -> None:
    purge.answer(purge.start())

    assert not purge.request.HasField("older_than")


@pytest.mark.parametrize("seconds", [0, 0.5, 86400])
def test_purge_command_passes_age_on(seconds: float, purge: Purge) -> None:
    purge.answer(purge.start(timedelta(seconds=seconds)))

    expected = PurgeDeletedRequest()
    expected.older_than.FromTimedelta(timedelta(seconds=seconds))
    assert purge.request == expected


@pytest.mark.parametrize("terminal", [True, False])
def test_purge_command_raises_failure_after_output(purge: Purge, *, terminal: bool) -> None:
    call = purge.start(terminal=terminal)
    call.send_response(RESPONSES[1])
    eventually(lambda: "messages" in purge.shown, "the response is shown")
    call.terminate((), grpc.StatusCode.UNAVAILABLE, "the database is unavailable; try again")

    with pytest.raises(grpc.RpcError) as raised:
        purge.ended.result(timeout=30)

    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "purged" not in purge.shown
