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
from typing import Any

_LOGGER = logging.getLogger(__name__)

# The name that grpc.aio gives to the tasks that start the handler and wait for a cancellation.
_OUTER_TASK_NAME = "rpc_task"


def abandon_call(task: "asyncio.Task[Any]") -> None:
    """Cancel a call whose handler runs in this task; the client sees CANCELLED."""
    outer = next(filter(lambda each: _refers_to(each, task), asyncio.all_tasks()), None)
    if outer is not None:
        outer.cancel()
    else:
        _LOGGER.error(
            "cannot abandon a call that a client does not read: this version of grpcio runs calls"
            " in another way; its memory is freed when the client disconnects"
        )
    task.cancel()


def _refers_to(outer: "asyncio.Task[Any]", inner: "asyncio.Task[Any]") -> bool:
    """Return whether the coroutine of one of gRPC's tasks has another task as a variable."""
    if outer.get_name() != _OUTER_TASK_NAME:
        return False
    scopes = gc.get_referents(outer.get_coro())
    return any(value is inner for scope in scopes for value in gc.get_referents(scope))
