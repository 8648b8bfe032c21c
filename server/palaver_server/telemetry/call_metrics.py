"""Metrics of calls, named as in go-grpc-prometheus where it has the metric."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.rpc import code_pb2
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from palaver_server.call_context import Call, Metadata

_METHOD = ("grpc_type", "grpc_service", "grpc_method")
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_BYTES = tuple(4**power for power in range(3, 13))  # 64 B to 16 MiB


class CallMetrics:
    """Counters and histograms of calls.

    Args:
        registry: The registry of the metrics.
        services: The services whose calls are counted. The counters of their methods start at 0
            before the first call, so that a rate includes the first failure.
    """

    def __init__(self, registry: CollectorRegistry, services: Iterable[ServiceDescriptor]) -> None:
        instruments = _Instruments(registry)
        self._methods = {
            f"/{service.full_name}/{method.name}": _MethodMetrics(instruments, method)
            for service in services
            for method in service.methods
        }

    def begin(self, call: Call, _metadata: Metadata) -> None:
        """Count a call that begins."""
        self._methods[call.method].begin()

    def end(self, calls: Sequence[Call]) -> None:
        """Count calls that have ended."""
        for call in calls:
            self._methods[call.method].end(call)


class _Instruments:
    def __init__(self, registry: CollectorRegistry) -> None:
        by_code = (*_METHOD, "grpc_code")
        self.started = Counter(
            "grpc_server_started_total", "Calls started.", _METHOD, registry=registry
        )
        self.handled = Counter(
            "grpc_server_handled_total", "Calls ended.", by_code, registry=registry
        )
        self.sent = Counter(
            "grpc_server_msg_sent_total", "Responses sent.", _METHOD, registry=registry
        )
        self.in_flight = Gauge(
            "palaver_calls_in_flight", "Calls running now.", _METHOD, registry=registry
        )
        self.seconds = Histogram(
            "grpc_server_handling_seconds",
            "Duration of calls in seconds.",
            by_code,
            buckets=_SECONDS,
            registry=registry,
        )
        self.request_bytes = Histogram(
            "palaver_request_bytes",
            "Size of requests in bytes.",
            by_code,
            buckets=_BYTES,
            registry=registry,
        )
        self.response_bytes = Histogram(
            "palaver_response_bytes",
            "Size of responses in bytes; for a stream the sum of its responses.",
            by_code,
            buckets=_BYTES,
            registry=registry,
        )


class _Ended(NamedTuple):
    """The histograms of one method and one code."""

    seconds: Histogram
    request_bytes: Histogram
    response_bytes: Histogram


class _MethodMetrics:
    """The series of one method, looked up once: a look-up costs more than an increment."""

    def __init__(self, instruments: _Instruments, method: MethodDescriptor) -> None:
        kind = "server_stream" if method.server_streaming else "unary"
        labels = (kind, method.containing_service.full_name, method.name)
        self._instruments = instruments
        self._labels = labels
        self._started = instruments.started.labels(*labels)
        self._sent = instruments.sent.labels(*labels)
        self._in_flight = instruments.in_flight.labels(*labels)
        codes: list[str] = code_pb2.Code.keys()
        self._handled = {code: instruments.handled.labels(*labels, code) for code in codes}
        self._ended: dict[str, _Ended] = {}

    def begin(self) -> None:
        self._started.inc()
        self._in_flight.inc()

    def end(self, call: Call) -> None:
        self._handled[call.code].inc()
        self._sent.inc(call.responses)
        series = self._ended.get(call.code) or self._with_code(call.code)
        series.seconds.observe(call.seconds)
        series.request_bytes.observe(call.request_bytes)
        series.response_bytes.observe(call.response_bytes)
        self._in_flight.dec()

    def _with_code(self, code: str) -> _Ended:
        labels = (*self._labels, code)
        series = _Ended(
            self._instruments.seconds.labels(*labels),
            self._instruments.request_bytes.labels(*labels),
            self._instruments.response_bytes.labels(*labels),
        )
        self._ended[code] = series
        return series
