"""The end of a server: callers leave, running calls finish, and what is left is ended."""

import asyncio
import logging

import grpc
from grpc_health.v1 import health

from palaver_server.interceptors.deadlines import TimeLimits

_LOGGER = logging.getLogger(__name__)

# No call for as long, and nobody seems to send more.
_SECONDS_OF_QUIET = 0.2

# How long calls that outlast the grace may take to be ended with a status.
_SECONDS_TO_END = 2.0


async def shut_down(
    server: grpc.aio.Server,
    health_servicer: health.aio.HealthServicer,
    time_limits: TimeLimits,
    *,
    drain: float,
    grace: float,
) -> None:
    """Stops a server.

    Args:
        server: The server, which runs.
        health_servicer: Where callers see that it stops.
        time_limits: What ends calls.
        drain: Seconds for which calls are taken at the most while callers see that the
            health turned. gRPC would break off those that arrive when it stops.
        grace: Seconds that running calls have to finish then. What still runs is ended
            with UNAVAILABLE, and streams with the cursor that resumes them.
    """
    await health_servicer.enter_graceful_shutdown()
    await _drain(time_limits, drain)

    def end() -> None:
        _LOGGER.info("ending what still runs")
        time_limits.end_all()

    ending = asyncio.get_running_loop().call_later(grace, end)
    await server.stop(grace + _SECONDS_TO_END)
    ending.cancel()


async def _drain(time_limits: TimeLimits, seconds: float) -> None:
    """Waits until no more calls begin."""
    end = asyncio.get_running_loop().time() + seconds
    begun = -1
    while begun != time_limits.begun and asyncio.get_running_loop().time() < end:
        begun = time_limits.begun
        await asyncio.sleep(_SECONDS_OF_QUIET)
