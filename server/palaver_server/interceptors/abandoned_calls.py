"""Abandoning a call: gRPC drops what it holds of the call, and resets its HTTP/2 stream.

`grpc.aio` has no function for it. Cancelling the task that runs the handler ends only that task: a
response that waits for the client stays in gRPC's core, with its memory, until the client takes it
or the connection ends. The core cancels a call, and frees its memory, when the last reference to it
goes. Another reference is held by the task that waits for the client to cancel, so both tasks are
cancelled. The server's loop holds the latest call until the next one arrives, so that one abandoned
call may keep its memory a little longer. `tests/api/test_unread_responses.py` fails if another
version of grpcio does not drop the call.
"""

import asyncio
import gc
import logging
from collections.abc import Collection, Iterator
from typing import Any

_LOGGER = logging.getLogger(__name__)

# The name that grpc.aio gives to the tasks that start the handler and wait for a cancellation.
_OUTER_TASK_NAME = "rpc_task"


def abandon_calls(tasks: "Collection[asyncio.Task[Any]]") -> None:
    """Cancel the calls that are run by these tasks; their clients see CANCELLED."""
    remaining = set(tasks)
    for outer in asyncio.all_tasks():
        if outer.get_name() == _OUTER_TASK_NAME:
            for task in remaining.intersection(_tasks_in(outer)):
                outer.cancel()
                task.cancel()
                remaining.discard(task)
    for task in remaining:
        if task.cancel():  # it was not done
            _LOGGER.error(
                "cannot abandon a call whose client does not answer: this version of grpcio runs"
                " calls in another way; its memory is freed when the client disconnects"
            )


def _tasks_in(outer: "asyncio.Task[Any]") -> "Iterator[asyncio.Task[Any]]":
    """Yield the tasks that are variables of the coroutine of one of gRPC's tasks."""
    for scope in gc.get_referents(outer.get_coro()):
        for value in gc.get_referents(scope):
            if isinstance(value, asyncio.Task):
                yield value
