"""The metrics of calls, under the names that go-grpc-prometheus gave them where it has one."""

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
    """Counts calls.

    Args:
        services: Those that there are. Each method has its counters from the start, so that
            its first failure shows in a rate; what is no method of theirs has none.
    """

    def __init__(self, registry: CollectorRegistry, services: Iterable[ServiceDescriptor]) -> None:
        instruments = _Instruments(registry)
        self._methods = {
            f"/{service.full_name}/{method.name}": _MethodMetrics(instruments, method)
            for service in services
            for method in service.methods
        }

    def begin(self, call: Call, _metadata: Metadata) -> None:
        """Sees a call begin."""
        self._methods[call.method].begin()

    def end(self, calls: Sequence[Call]) -> None:
        """Counts calls that have ended."""
        for call in calls:
            self._methods[call.method].end(call)


class _Instruments:
    def __init__(self, registry: CollectorRegistry) -> None:
        by_code = (*_METHOD, "grpc_code")
        self.started = Counter(
            "grpc_server_started_total", "Calls that began.", _METHOD, registry=registry
        )
        self.handled = Counter(
            "grpc_server_handled_total", "Calls that ended.", by_code, registry=registry
        )
        self.sent = Counter(
            "grpc_server_msg_sent_total", "Responses of calls.", _METHOD, registry=registry
        )
        self.in_flight = Gauge(
            "palaver_calls_in_flight", "Calls that are running.", _METHOD, registry=registry
        )
        self.seconds = Histogram(
            "grpc_server_handling_seconds",
            "How long calls took.",
            by_code,
            buckets=_SECONDS,
            registry=registry,
        )
        self.request_bytes = Histogram(
            "palaver_request_bytes",
            "Size of the requests.",
            by_code,
            buckets=_BYTES,
            registry=registry,
        )
        self.response_bytes = Histogram(
            "palaver_response_bytes",
            "Size of what calls were answered, all responses of a stream together.",
            by_code,
            buckets=_BYTES,
            registry=registry,
        )


class _Ended(NamedTuple):
    """The series of calls of one method that ended with one code."""

    seconds: Histogram
    request_bytes: Histogram
    response_bytes: Histogram


class _MethodMetrics:
    """The series of one method. They are looked up once: that costs more than to count."""

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
        found = (
            self._instruments.seconds,
            self._instruments.request_bytes,
            self._instruments.response_bytes,
        )
        series = _Ended(*(one.labels(*self._labels, code) for one in found))
        self._ended[code] = series
        return series
