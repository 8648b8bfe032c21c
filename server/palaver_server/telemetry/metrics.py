"""The metrics of a server, and the port on which Prometheus finds them."""

import asyncio
import logging
import platform
from collections.abc import Callable, Coroutine, Iterable, Mapping
from importlib.metadata import version
from typing import Any

import prometheus_client
from google.protobuf.descriptor import ServiceDescriptor
from prometheus_client import CollectorRegistry, Gauge, Info

from palaver_server.addresses import split
from palaver_server.database.backlog import MeasureBacklog
from palaver_server.telemetry.backlog_metrics import BacklogMetrics
from palaver_server.telemetry.call_metrics import CallMetrics
from palaver_server.telemetry.pool_metrics import PoolCollector

_LOGGER = logging.getLogger(__name__)

# They tell for each series when it was made: as many lines more, which nobody asks for.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """All metrics of one server, served on an address of their own.

    Args:
        listen: HOST:PORT; port 0 takes a free one.
        services: Those whose calls are counted.
        pool_stats: Gives the figures of the pool of database connections.
        is_serving: Tells whether the database answers.
        backlogs: What measures the work that waits, by the name of the work.
    """

    def __init__(
        self,
        listen: str,
        *,
        services: Iterable[ServiceDescriptor],
        pool_stats: Callable[[], Mapping[str, int]],
        is_serving: Callable[[], bool],
        backlogs: Mapping[str, MeasureBacklog],
    ) -> None:
        self._listen = listen
        self._registry = registry = CollectorRegistry()
        self._close: Callable[[], None] | None = None
        prometheus_client.ProcessCollector(registry=registry)
        prometheus_client.GCCollector(registry=registry)
        _show_build(registry)
        serving = Gauge("palaver_serving", "1 while the database answers.", registry=registry)
        serving.set_function(is_serving)
        registry.register(PoolCollector(pool_stats))
        self.calls = CallMetrics(registry, services)
        self._backlogs = BacklogMetrics(registry, backlogs)

    def start(self) -> Coroutine[Any, Any, None]:
        """Starts to serve, in a thread, which answers also while the event loop is held up.

        Returns:
            What is to run in the background for ever, for the metrics that take time.

        Raises:
            RuntimeError: The address cannot be used.
        """
        host, port = split(self._listen)
        try:
            server, thread = prometheus_client.start_http_server(port, host, self._registry)
        except OSError as error:
            raise RuntimeError(
                f"cannot serve metrics on {self._listen}: {error.strerror}"
            ) from error

        def close() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        self._close = close
        _LOGGER.info("metrics on http://%s:%d/metrics", host, server.server_port)
        return self._backlogs.watch()

    async def stop(self) -> None:
        """Ends to serve."""
        if self._close:
            await asyncio.to_thread(self._close)


def _show_build(registry: CollectorRegistry) -> None:
    build = Info("palaver_build", "The version that runs, and what it runs on.", registry=registry)
    build.info(
        {
            "version": version("palaver-server"),
            "python": platform.python_version(),
            "grpc": version("grpcio"),
        }
    )
