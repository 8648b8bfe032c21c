"""The log: lines for people on a terminal, JSON elsewhere."""

import asyncio
import json
import logging
import sys
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any, TextIO

import orjson

from palaver_server.call_context import running_call

# They are in no line, and so need not be found out for each.
logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def set_up(*, level: str, format: str) -> None:
    """Has everything logged to standard error.

    Args:
        level: The least level logged.
        format: `text`, `json`, or `auto`: text on a terminal, JSON elsewhere.
    """
    handler = BurstHandler(sys.stderr)
    is_text = handler.stream.isatty() if format == "auto" else format == "text"
    handler.setFormatter(TextFormatter() if is_text else JsonFormatter())
    logging.basicConfig(level=level, handlers=[handler])
    logging.getLogger("grpc._cython.cygrpc").addFilter(tell_of_ended_call)


# What gRPC logs with a traceback where a caller is gone at the moment of its response, or the
# server at its end while somebody watches its health.
_NO_FAULTS = frozenset({"ExecuteBatchError", "CancelledError"})


def tell_of_ended_call(record: logging.LogRecord) -> bool:
    """Makes a plain line of a traceback of gRPC's for a call that was over before its response."""
    if record.exc_info and type(record.exc_info[1]).__name__ in _NO_FAULTS:
        record.msg = "a call of %s was over before its response"
        record.levelno, record.levelname = logging.INFO, "INFO"
        record.exc_info = None
    return logging.getLogger(record.name).isEnabledFor(record.levelno)


class BurstHandler(logging.StreamHandler[TextIO]):
    """Writes what one turn of the event loop logs at once, up to INFO; all else immediately.

    Each write lets the other threads have the interpreter, which costs more than the line.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a record, or keeps its line until the end of the turn."""
        try:
            self._lines.append(self.format(record) + self.terminator)
            if record.levelno > logging.INFO or not self._is_flushed_soon():
                self.flush()
        except Exception:  # noqa: BLE001 - as the handlers of `logging` do
            self.handleError(record)

    def flush(self) -> None:
        """Writes the lines that were kept."""
        with self.lock or nullcontext():
            lines, self._lines = self._lines, []
            if lines:
                self.stream.write("".join(lines))
            super().flush()

    def _is_flushed_soon(self) -> bool:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # a thread that has none
            return False
        if len(self._lines) == 1:
            loop.call_soon(self.flush)
        return True


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """What a line tells beside its message: its own fields, and the ids of the call it is from.

    A record has fields of its own in the attribute `fields`. Empty ones are left out.
    """
    fields: dict[str, Any] = getattr(record, "fields", {})
    call = running_call.get(None)
    if call is not None and "request_id" not in fields:
        fields = {**fields, "request_id": call.request_id, "trace_id": call.trace_id}
    return {name: value for name, value in fields.items() if value != ""}


class JsonFormatter(logging.Formatter):
    """Writes a record as an object of JSON, in one line."""

    def format(self, record: logging.LogRecord) -> str:
        """Writes a record."""
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
    except TypeError:  # text that is no Unicode, as a name in a token may be
        return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """Writes a record for people, its fields as `name=value` after the message."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name to override
        """Writes the message with what stands around it."""
        fields = (f" {name}={_plain(value)}" for name, value in _fields(record).items())
        return super().formatMessage(record) + "".join(fields)


def _plain(value: Any) -> str:
    """Quotes what could be taken for another field, or for another line."""
    text = str(value)
    return text if text.isprintable() and " " not in text else json.dumps(text)
