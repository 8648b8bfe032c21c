"""Traces: OpenTelemetry's SDK, set up from its own variables."""

import asyncio
import logging
import os
import threading
from collections.abc import Iterable
from importlib.metadata import entry_points, version

from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter

from palaver_server.telemetry.spans import CallSpans, statement_trace

_LOGGER = logging.getLogger(__name__)

_EXPORTERS = "opentelemetry_traces_exporter"
_OTLP = {"grpc": "otlp_proto_grpc", "http/protobuf": "otlp_proto_http"}

# An exporter whose collector is away would try for half a minute.
_SECONDS_TO_EXPORT_THE_LAST = 5


class Traces:
    """What makes the spans of calls and statements, and exports them.

    Args:
        exporters: Their names, as OTEL_TRACES_EXPORTER has them.

    Raises:
        RuntimeError: There is no such exporter.
    """

    def __init__(self, exporters: Iterable[str]) -> None:
        ours = Resource.create(
            {"service.name": "palaver", "service.version": version("palaver-server")}
        )
        self._provider = TracerProvider(
            resource=ours.merge(OTELResourceDetector().detect()), shutdown_on_exit=False
        )
        for name in exporters:
            self._provider.add_span_processor(BatchSpanProcessor(_exporter(name)))
        tracer = self._provider.get_tracer("palaver")
        self.calls = CallSpans(tracer)
        self.trace_statement = statement_trace(tracer)

    async def stop(self) -> None:
        """Exports what is left, if that can be done soon."""
        stopping = threading.Thread(target=self._provider.shutdown, daemon=True)
        stopping.start()
        await asyncio.to_thread(stopping.join, _SECONDS_TO_EXPORT_THE_LAST)
        if stopping.is_alive():
            _LOGGER.warning("the last traces could not be exported")


def _exporter(name: str) -> SpanExporter:
    if name == "otlp":
        general = os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL") or "grpc"
        protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or general
        name = _OTLP.get(protocol, protocol)
    found = entry_points(group=_EXPORTERS, name=name)
    if not found:
        there_are = ", ".join(sorted(entry_points(group=_EXPORTERS).names))
        raise RuntimeError(f"no exporter of traces is named {name}; there are: {there_are}")
    (entry_point, *_) = found
    exporter: SpanExporter = entry_point.load()()
    return exporter
