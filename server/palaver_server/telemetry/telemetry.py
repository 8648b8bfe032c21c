"""The telemetry of a server: its call log, and metrics and traces if configured."""

import logging
import os
from collections.abc import Coroutine, Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor import ServiceDescriptor

from palaver_server.database.connection import Trace, untraced
from palaver_server.interceptors.observation import Observation
from palaver_server.telemetry.call_log import log_calls
from palaver_server.telemetry.readings import Readings

# Imported at run time only if configured: they take long to load.
if TYPE_CHECKING:
    from palaver_server.telemetry.metrics import Metrics
    from palaver_server.telemetry.traces import Traces

_LOGGER = logging.getLogger(__name__)

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class Telemetry:
    """The observation of a server's calls, and the server of its metrics.

    OpenTelemetry's own variables configure the traces.

    Raises:
        RuntimeError: The variables name an exporter that is not installed.
    """

    def __init__(self) -> None:
        self._traces = _traces()
        self._metrics: Metrics | None = None

    def measure(
        self,
        listen: str,
        *,
        services: Iterable[ServiceDescriptor],
        readings: Readings,
    ) -> None:
        """Add metrics, to be served from `start` on. Call this before reading `observation`.

        Args:
            listen: HOST:PORT to serve them on; port 0 picks a free port.
            services: The services whose calls are counted.
            readings: The state of the server.
        """
        from palaver_server.telemetry.metrics import Metrics  # noqa: PLC0415

        self._metrics = Metrics(listen, services=services, readings=readings)

    @property
    def trace_statement(self) -> Trace:
        """Trace for the pool's statements."""
        return self._traces.trace_statement if self._traces else untraced

    @cached_property
    def observation(self) -> Observation:
        """Interceptor that logs calls, and counts and traces them if configured."""
        observers = [each.calls for each in (self._traces, self._metrics) if each]
        begins = [observer.begin for observer in observers]
        return Observation(begins, [log_calls, *(observer.end for observer in observers)])

    def start(self) -> list[Coroutine[Any, Any, None]]:
        """Start to serve metrics, and return the background tasks that they need.

        Raises:
            RuntimeError: The address cannot be used.
        """
        return [self._metrics.start()] if self._metrics else []

    async def stop(self) -> None:
        """Report the last calls, export their traces, and stop serving metrics."""
        self.observation.report()
        if self._metrics:
            await self._metrics.stop()
        if self._traces:
            await self._traces.stop()


def _traces() -> "Traces | None":
    exporters = _exporters()
    if not exporters:
        return None
    try:
        from palaver_server.telemetry.traces import Traces  # noqa: PLC0415
    except ModuleNotFoundError:
        _LOGGER.warning(
            "traces are off although OTEL_* variables configure them: OpenTelemetry is not"
            " installed; run pip install 'palaver-server[tracing]' and restart"
        )
        return None
    return Traces(exporters)


def _exporters() -> list[str]:
    """Return the names of the exporters that OpenTelemetry's variables configure.

    Without variables the specification's default is OTLP to localhost; here it is none.
    """
    given = os.environ.get("OTEL_TRACES_EXPORTER", "")
    if not given and any(os.environ.get(name) for name in _ENDPOINTS):
        given = "otlp"
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        given = "none"
    return [name for name in map(str.strip, given.split(",")) if name not in ("", "none")]
