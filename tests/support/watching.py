"""Waiting for what comes about by itself: conditions, and the health that a server reports."""

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
    """Asks for the condition until it is true, and gives its value."""
    deadline = time.monotonic() + within
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {within} seconds: {what}"
        time.sleep(0.02)
    return value


class WatchedHealth:
    """What a `Watch` has told of a service's health so far, the newest last."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.error: grpc.RpcError | None = None

    def turns(self, status: int, *, within: float = 30) -> None:
        """Waits until this is the newest status."""

        def turned() -> bool:
            assert self.error is None, f"the watch ended: {self.error}"
            return self.statuses[-1:] == [status]

        eventually(turned, f"the health is {status}", within=within)


@contextmanager
def watched_health(client: Client, service: str = "") -> Iterator[WatchedHealth]:
    """Watches the health of a service that serves."""
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


# The type checker's description of this stub has no methods.


def watch_health(client: Client, service: str = "") -> Any:
    """Begins to watch the health of a service, and gives the call."""
    stub: Any = client.health
    return stub.Watch(HealthCheckRequest(service=service))


def health_of(client: Client, service: str = "") -> int:
    """Asks for the health of a service."""
    stub: Any = client.health
    return int(stub.Check(HealthCheckRequest(service=service)).status)
