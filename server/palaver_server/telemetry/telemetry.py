"""What a server shows of itself: the log of its calls; metrics and traces, if they are wanted."""

import logging
import os
from collections.abc import Callable, Coroutine, Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor import ServiceDescriptor

from palaver_server.database.backlog import MeasureBacklog
from palaver_server.database.connection import Trace, untraced
from palaver_server.interceptors.observation import Observation
from palaver_server.telemetry.call_log import log_calls

# What is imported here is not imported at run time before it is wanted: that takes time.
if TYPE_CHECKING:
    from palaver_server.telemetry.metrics import Metrics
    from palaver_server.telemetry.traces import Traces

_LOGGER = logging.getLogger(__name__)

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class Telemetry:
    """What observes a server's calls, and what else serves to watch it.

    Traces are wanted if OpenTelemetry's own variables ask for them.

    Raises:
        RuntimeError: The variables name what there is not.
    """

    def __init__(self) -> None:
        self._traces = _traces()
        self._metrics: Metrics | None = None

    def measure(
        self,
        listen: str,
        *,
        services: Iterable[ServiceDescriptor],
        pool_stats: Callable[[], Mapping[str, int]],
        is_serving: Callable[[], bool],
        backlogs: Mapping[str, MeasureBacklog],
    ) -> None:
        """Has metrics served, from the start on.

        Args:
            listen: HOST:PORT to serve them on; port 0 takes a free one.
            services: Those whose calls are counted.
            pool_stats: Gives the figures of the pool of database connections.
            is_serving: Tells whether the database answers.
            backlogs: What measures the work that waits, by the name of the work.
        """
        from palaver_server.telemetry.metrics import Metrics  # noqa: PLC0415

        self._metrics = Metrics(
            listen,
            services=services,
            pool_stats=pool_stats,
            is_serving=is_serving,
            backlogs=backlogs,
        )

    @property
    def trace_statement(self) -> Trace:
        """What the pool is to tell of its statements."""
        return self._traces.trace_statement if self._traces else untraced

    @cached_property
    def observation(self) -> Observation:
        """The interceptor that has calls logged, and counted and traced as far as is wanted."""
        wanted = [one.calls for one in (self._traces, self._metrics) if one]
        return Observation([one.begin for one in wanted], [log_calls, *(one.end for one in wanted)])

    def start(self) -> list[Coroutine[Any, Any, None]]:
        """Starts to serve metrics; gives what is to run in the background for ever.

        Raises:
            RuntimeError: The address cannot be used.
        """
        return [self._metrics.start()] if self._metrics else []

    async def stop(self) -> None:
        """Reports the last calls, exports their traces, and ends all."""
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
        _LOGGER.warning("no traces, though OTEL_* ask for them: install palaver[tracing]")
        return None
    return Traces(exporters)


def _exporters() -> list[str]:
    """Gives what the variables name to export traces by.

    By the standard, that would be OTLP to localhost if they name nothing; here it is nothing.
    """
    given = os.environ.get("OTEL_TRACES_EXPORTER", "")
    if not given and any(os.environ.get(name) for name in _ENDPOINTS):
        given = "otlp"
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        given = "none"
    return [name for name in map(str.strip, given.split(",")) if name not in ("", "none")]
