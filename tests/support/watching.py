"""Wait for conditions, and for the health that a server reports."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from tests.support.client import Client

T = TypeVar("T")

SERVING = HealthCheckResponse.SERVING
NOT_SERVING = HealthCheckResponse.NOT_SERVING


def eventually(condition: Callable[[], T | None], what: str, *, within: float = 30) -> T:
    """Evaluate the condition until it is true, and return its value."""
    deadline = time.monotonic() + within
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {within} seconds: {what}"
        time.sleep(0.02)
    return value


class WatchedHealth:
    """The health that a `Watch` has reported so far, the newest last."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.error: grpc.RpcError | None = None

    def turns(self, status: int, *, within: float = 30) -> None:
        """Wait until this is the newest status."""

        def turned() -> bool:
            assert self.error is None, f"the watch ended: {self.error}"
            return self.statuses[-1:] == [status]

        eventually(turned, f"the health is {status}", within=within)


@contextmanager
def watched_health(client: Client, service: str = "") -> Iterator[WatchedHealth]:
    """Watch the health of a service that serves, during the block."""
    health = WatchedHealth()
    responses = watch_health(client, service)

    def listen() -> None:
        try:
            for response in responses:
                health.statuses.append(response.status)
        except grpc.RpcError as error:
            health.error = error

    thread = threading.Thread(target=listen)
    thread.start()
    try:
        health.turns(SERVING)
        yield health
    finally:
        responses.cancel()
        thread.join()


# The types of this stub have no methods.


def watch_health(client: Client, service: str = "") -> Any:
    """Start to watch the health of a service, and return the call."""
    stub: Any = client.health
    return stub.Watch(HealthCheckRequest(service=service))


def health_of(client: Client, service: str = "") -> int:
    """Return the health of a service."""
    stub: Any = client.health
    return int(stub.Check(HealthCheckRequest(service=service)).status)
