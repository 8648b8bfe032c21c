"""The call log: one line for each call that has ended."""

import logging
from collections.abc import Sequence

from palaver_server.call_context import FAULTS, Call

_LOGGER = logging.getLogger(__name__)


def log_calls(calls: Sequence[Call]) -> None:
    """Log each call: at INFO, or at WARNING if the server may be at fault."""
    for call in calls:
        level = logging.WARNING if call.code in FAULTS else logging.INFO
        if _LOGGER.isEnabledFor(level):
            _LOGGER.handle(_record(level, call))


def _record(level: int, call: Call) -> logging.LogRecord:
    record = logging.LogRecord(_LOGGER.name, level, __file__, 0, "call", (), None)
    record.created = call.ended
    record.msecs = call.ended % 1 * 1000
    record.fields = {
        "method": call.method,
        "code": call.code,
        "duration_ms": round(call.seconds * 1000, 3),
        "request_bytes": call.request_bytes,
        "responses": call.responses,
        "response_bytes": call.response_bytes,
        "peer": call.peer,
        "principal": call.principal,
        "request_id": call.request_id,
        "trace_id": call.trace_id,
    }
    return record
