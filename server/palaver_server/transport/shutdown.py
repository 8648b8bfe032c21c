"""The end of a server: callers leave, running calls finish, and what is left is ended."""

import asyncio
import logging

import grpc
from grpc_health.v1 import health

from palaver_server.interceptors.running_calls import RunningCalls

_LOGGER = logging.getLogger(__name__)

# No call for as long, and nobody seems to send more.
_SECONDS_OF_QUIET = 0.2

# How long calls that outlast the grace may take to be ended with a status.
_SECONDS_TO_END = 2.0


async def shut_down(
    server: grpc.aio.Server,
    health_servicer: health.aio.HealthServicer,
    running_calls: RunningCalls,
    *,
    drain: float,
    grace: float,
) -> None:
    """Stops a server.

    Args:
        server: The server, which runs.
        health_servicer: Where callers see that it stops.
        running_calls: The calls in progress.
        drain: Seconds for which calls are taken at the most while callers see that the
            health turned. gRPC would break off those that arrive when it stops.
        grace: Seconds that running calls have to finish then. What still runs is ended
            with UNAVAILABLE, and streams with the cursor that resumes them.
    """
    await health_servicer.enter_graceful_shutdown()
    await _drain(running_calls, drain)

    def end() -> None:
        _LOGGER.info("ending what still runs")
        running_calls.cancel_all()

    ending = asyncio.get_running_loop().call_later(grace, end)
    await server.stop(grace + _SECONDS_TO_END)
    ending.cancel()


async def _drain(running_calls: RunningCalls, seconds: float) -> None:
    """Waits until no more calls begin."""
    end = asyncio.get_running_loop().time() + seconds
    begun = -1
    while begun != running_calls.started and asyncio.get_running_loop().time() < end:
        begun = running_calls.started
        await asyncio.sleep(_SECONDS_OF_QUIET)
