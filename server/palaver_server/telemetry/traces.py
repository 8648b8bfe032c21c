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

# An exporter would retry an unreachable collector for half a minute.
_LAST_EXPORT_TIMEOUT_SECONDS = 5


class Traces:
    """The spans of calls and statements, and their export.

    Args:
        exporters: Names of exporters, as in OTEL_TRACES_EXPORTER.

    Raises:
        RuntimeError: An exporter is not installed.
    """

    def __init__(self, exporters: Iterable[str]) -> None:
        service = Resource.create(
            {"service.name": "palaver", "service.version": version("palaver-server")}
        )
        self._provider = TracerProvider(
            resource=service.merge(OTELResourceDetector().detect()), shutdown_on_exit=False
        )
        for name in exporters:
            self._provider.add_span_processor(BatchSpanProcessor(_exporter(name)))
        tracer = self._provider.get_tracer("palaver")
        self.calls = CallSpans(tracer)
        self.trace_statement = statement_trace(tracer)

    async def stop(self) -> None:
        """Export the remaining spans, within a few seconds."""
        stopping = threading.Thread(target=self._provider.shutdown, daemon=True)
        stopping.start()
        await asyncio.to_thread(stopping.join, _LAST_EXPORT_TIMEOUT_SECONDS)
        if stopping.is_alive():
            _LOGGER.warning(
                "exporting the last spans took more than %d s; they are lost",
                _LAST_EXPORT_TIMEOUT_SECONDS,
            )


def _exporter(name: str) -> SpanExporter:
    if name == "otlp":
        general = os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL") or "grpc"
        protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or general
        name = _OTLP.get(protocol, protocol)
    matches = entry_points(group=_EXPORTERS, name=name)
    if not matches:
        installed = ", ".join(sorted(entry_points(group=_EXPORTERS).names))
        raise RuntimeError(
            "OTEL_TRACES_EXPORTER and OTEL_EXPORTER_OTLP_PROTOCOL: must name installed exporters"
            f" ({installed}); got {name}"
        )
    (entry_point, *_) = matches
    exporter: SpanExporter = entry_point.load()()
    return exporter
