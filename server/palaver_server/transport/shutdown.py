"""Graceful shutdown: clients leave, running calls finish, and the remaining ones are cancelled."""

import asyncio
import logging

import grpc
from grpc_health.v1 import health

from palaver_server.interceptors.running_calls import RunningCalls

_LOGGER = logging.getLogger(__name__)

# The drain ends early if no call starts for this time.
_QUIET_SECONDS = 0.2

# How long cancelled calls may take to return their status.
_CANCEL_SECONDS = 2.0


async def shut_down(
    server: grpc.aio.Server,
    health_servicer: health.aio.HealthServicer,
    running_calls: RunningCalls,
    *,
    drain: float,
    grace: float,
) -> None:
    """Stop a server.

    Args:
        server: The running server.
        health_servicer: Tells clients that the server is stopping.
        running_calls: The calls in progress.
        drain: Maximum seconds in which the server still accepts calls, while clients notice
            the changed health. gRPC breaks off calls that arrive after it has stopped.
        grace: Seconds that running calls then have to finish. The remaining ones are
            cancelled with UNAVAILABLE, and streams with the cursor that resumes them.
    """
    await health_servicer.enter_graceful_shutdown()
    await _drain(running_calls, drain)

    def cancel_all() -> None:
        _LOGGER.info("the grace period of %g s is over; cancelling the running calls", grace)
        running_calls.cancel_all()

    cancellation = asyncio.get_running_loop().call_later(grace, cancel_all)
    await server.stop(grace + _CANCEL_SECONDS)
    cancellation.cancel()


async def wait_for_ended_calls() -> None:
    """Wait briefly until gRPC's tasks of ended calls are done, before the event loop ends.

    Their callers have their status, but a handler may still wait for the database. When the loop
    cancels a task of gRPC's in the turn in which its handler ends, gRPC writes a traceback to
    standard error, past the log.
    """
    tasks = [task for task in asyncio.all_tasks() if _is_call(task)]
    if tasks:
        await asyncio.wait(tasks, timeout=_CANCEL_SECONDS)


def _is_call(task: asyncio.Task[object]) -> bool:
    return getattr(task.get_coro(), "__name__", "") == "_schedule_rpc_coro"


async def _drain(running_calls: RunningCalls, seconds: float) -> None:
    """Wait until no more calls start."""
    end = asyncio.get_running_loop().time() + seconds
    started = -1
    while started != running_calls.started and asyncio.get_running_loop().time() < end:
        started = running_calls.started
        await asyncio.sleep(_QUIET_SECONDS)
