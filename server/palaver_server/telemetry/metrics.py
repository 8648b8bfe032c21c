"""The metrics of a server, and the HTTP server that exposes them to Prometheus."""

import asyncio
import logging
import platform
from collections.abc import Coroutine, Iterable
from functools import partial
from importlib.metadata import version
from typing import Any

import prometheus_client
from google.protobuf.descriptor import ServiceDescriptor
from prometheus_client import CollectorRegistry, Gauge, Info

from palaver_server.addresses import split
from palaver_server.telemetry.backlog_metrics import BacklogMetrics
from palaver_server.telemetry.call_metrics import CallMetrics
from palaver_server.telemetry.metrics_server import MetricsServer
from palaver_server.telemetry.pool_metrics import PoolCollector
from palaver_server.telemetry.readings import Readings
from palaver_server.telemetry.search_metrics import SearchCollector
from palaver_server.telemetry.standby_metrics import StandbyCollector

_LOGGER = logging.getLogger(__name__)

# `_created` series would double the size of a scrape, and nothing here uses them.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """All metrics of one server, served on their own address.

    Args:
        listen: HOST:PORT; port 0 picks a free port.
        services: The services whose calls are counted.
        readings: The state of the server.
    """

    def __init__(
        self, listen: str, *, services: Iterable[ServiceDescriptor], readings: Readings
    ) -> None:
        self._listen = listen
        self._registry = registry = CollectorRegistry()
        self._server: MetricsServer | None = None
        prometheus_client.ProcessCollector(registry=registry)
        prometheus_client.GCCollector(registry=registry)
        _show_build(registry)
        serving = Gauge("palaver_serving", "1 if the database answers, else 0.", registry=registry)
        serving.set_function(readings.is_serving)
        _show_credentials(registry, readings)
        registry.register(PoolCollector(readings.pool_stats))
        if readings.standby:
            registry.register(StandbyCollector(readings.standby))
        registry.register(SearchCollector(readings.search_fallbacks))
        self.calls = CallMetrics(registry, services)
        self._backlogs = BacklogMetrics(registry, readings.backlogs)

    def start(self) -> Coroutine[Any, Any, None]:
        """Start to serve, in a thread that answers even while the event loop is blocked.

        Returns:
            The background task that measures backlogs.

        Raises:
            RuntimeError: The address cannot be used.
        """
        host, port = split(self._listen)
        try:
            self._server = MetricsServer(host, port, self._registry)
        except OSError as error:
            raise RuntimeError(
                f"cannot serve metrics on {self._listen}: {error.strerror}"
            ) from error
        self._server.start()
        _LOGGER.info("metrics on http://%s:%d/metrics", host, self._server.server_port)
        return self._backlogs.watch()

    async def stop(self) -> None:
        """Stop serving."""
        if self._server:
            await asyncio.to_thread(self._server.stop)


def _show_credentials(registry: CollectorRegistry, readings: Readings) -> None:
    succeeded = Gauge(
        "palaver_reload_succeeded",
        "1 if the last reload of certificates, credentials or JWT keys succeeded, else 0.",
        ["source"],
        registry=registry,
    )
    for source in readings.reload_status():
        succeeded.labels(source).set_function(partial(_succeeded, readings, source))
    ignored = Gauge(
        "palaver_jwt_keys_ignored",
        "Keys of the JWKS that are ignored because they are malformed, weak or duplicates.",
        registry=registry,
    )
    ignored.set_function(readings.ignored_jwt_keys)


def _succeeded(readings: Readings, source: str) -> bool:
    return readings.reload_status()[source]


def _show_build(registry: CollectorRegistry) -> None:
    build = Info("palaver_build", "Versions of Palaver, Python and gRPC.", registry=registry)
    build.info(
        {
            "version": version("palaver-server"),
            "python": platform.python_version(),
            "grpc": version("grpcio"),
        }
    )
