"""The log: text on a terminal, JSON elsewhere."""

import asyncio
import json
import logging
import sys
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any, TextIO

import orjson

from palaver_server.call_context import running_call

# No formatter here uses these fields, so records need not collect them.
logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def set_up(*, level: str, format: str) -> None:
    """Log to standard error.

    Args:
        level: Lowest level that is logged.
        format: `text`, `json`, or `auto`: text on a terminal, JSON elsewhere.
    """
    handler = BurstHandler(sys.stderr)
    is_text = handler.stream.isatty() if format == "auto" else format == "text"
    handler.setFormatter(TextFormatter() if is_text else JsonFormatter())
    logging.basicConfig(level=level, handlers=[handler])
    logging.getLogger("grpc._cython.cygrpc").addFilter(shorten_abandoned_call)


# Exceptions of gRPC's log that are no faults: the client disconnected before its response was sent,
# or the server stopped during a health watch. gRPC's module has no types, hence names.
_ABANDONED = frozenset({"ExecuteBatchError", "CancelledError"})


def shorten_abandoned_call(record: logging.LogRecord) -> bool:
    """Replace gRPC's traceback for a call that ended before its response by a line at INFO."""
    if record.exc_info and type(record.exc_info[1]).__name__ in _ABANDONED:
        record.msg = "call of %s ended before its response was sent"
        record.levelno, record.levelname = logging.INFO, "INFO"
        record.exc_info = None
    return logging.getLogger(record.name).isEnabledFor(record.levelno)


class BurstHandler(logging.StreamHandler[TextIO]):
    """Writes the records of one turn of the event loop together.

    Each write releases the GIL, and getting it back costs more than formatting the line. Records
    above INFO, and those of other threads, are written immediately.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or keep its line until the end of the turn."""
        try:
            self._lines.append(self.format(record) + self.terminator)
            if record.levelno > logging.INFO or not self._is_flushed_soon():
                self.flush()
        except Exception:  # noqa: BLE001 - like the handlers of `logging`
            self.handleError(record)

    def flush(self) -> None:
        """Write the kept lines."""
        with self.lock or nullcontext():
            lines, self._lines = self._lines, []
            if lines:
                self.stream.write("".join(lines))
            super().flush()

    def _is_flushed_soon(self) -> bool:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # a thread without a loop
            return False
        if len(self._lines) == 1:
            loop.call_soon(self.flush)
        return True


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """Return a record's own fields and the ids of the running call, without empty ones.

    A record's own fields are in its attribute `fields`.
    """
    fields: dict[str, Any] = getattr(record, "fields", {})
    call = running_call.get(None)
    if call is not None and "request_id" not in fields:
        fields = {**fields, "request_id": call.request_id, "trace_id": call.trace_id}
    return {name: value for name, value in fields.items() if value != ""}


class JsonFormatter(logging.Formatter):
    """Formats a record as a JSON object on one line."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _encode(line)


def _encode(line: dict[str, Any]) -> str:
    try:
        return orjson.dumps(line, default=str).decode()
    except TypeError:  # a lone surrogate, which a token's claims may contain
        return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """Formats a record as text, its fields as `name=value` after the message."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - overrides
        """Format the message with time, level and fields."""
        fields = (f" {name}={_plain(value)}" for name, value in _fields(record).items())
        return super().formatMessage(record) + "".join(fields)


def _plain(value: Any) -> str:
    """Quote a value that could be read as another field or another line."""
    text = str(value)
    return text if text.isprintable() and " " not in text else json.dumps(text)
