"""The log: text on a terminal, JSON elsewhere."""

import asyncio
import json
import logging
import os
import sys
import threading
import traceback
from contextlib import nullcontext, suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TextIO, TypeAlias

import orjson

from palaver_server.call_context import running_call

_LOGGER = logging.getLogger(__name__)

ExcInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None]

# No formatter here uses these fields, so records need not collect them.
logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def set_up(*, level: str, format: str) -> None:
    """Log to standard error, warnings and uncaught exceptions of threads included.

    An existing configuration of the log by the surrounding program stays as it is.

    Args:
        level: Lowest level that is logged.
        format: `text`, `json`, or `auto`: text on a terminal, JSON elsewhere.
    """
    logging.getLogger("grpc._cython.cygrpc").addFilter(shorten_abandoned_call)
    if logging.getLogger().hasHandlers():
        return
    handler = BurstHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if is_json(format) else TextFormatter())
    logging.basicConfig(level=level, handlers=[handler])
    logging.captureWarnings(capture=True)
    threading.excepthook = _log_thread_exception
    sys.unraisablehook = _log_unraisable


def is_json(format: str) -> bool:
    """Return whether standard error takes JSON in a format: `text`, `json` or `auto`."""
    return format == "json" or (format == "auto" and not sys.stderr.isatty())


def silence_grpc() -> None:
    """Keep the lines of gRPC's C core from standard error; call before gRPC is imported.

    It writes text past Python's log, such as a line for each failed TLS handshake, and offers no
    other format. A value that the operator has set stays.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")


def write_json(
    logger: logging.Logger, level: int, message: str, exc_info: ExcInfo | None = None
) -> None:
    """Write a line of a log as JSON, whether or not the log has been set up."""
    record = logger.makeRecord(logger.name, level, "", 0, message, (), exc_info)
    sys.stderr.write(JsonFormatter().format(record) + "\n")


def _log_thread_exception(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is None or issubclass(args.exc_type, SystemExit):
        return
    name = args.thread.name if args.thread else "unknown"
    exc_info = (args.exc_type, args.exc_value, args.exc_traceback)
    _LOGGER.critical("thread %s ended by an unexpected error", name, exc_info=exc_info)


def _log_unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    error = unraisable.exc_value
    place = getattr(unraisable.object, "__qualname__", type(unraisable.object).__qualname__)
    _LOGGER.error("%s in %s", unraisable.err_msg or "exception ignored", place, exc_info=error)


# Exceptions of gRPC's log that are no faults: the client disconnected before its response was sent,
# or the server stopped during a health watch. gRPC's module has no types, hence names.
_ABANDONED = frozenset({"ExecuteBatchError", "CancelledError"})


def shorten_abandoned_call(record: logging.LogRecord) -> bool:
    """Log a call that ended before its response was sent at INFO, without gRPC's traceback."""
    if record.exc_info and type(record.exc_info[1]).__name__ in _ABANDONED:
        record.msg = f"a call ended before its response was sent: {record.getMessage()}"
        record.args = ()
        record.levelno, record.levelname = logging.INFO, "INFO"
        record.exc_info = None
    return logging.getLogger(record.name).isEnabledFor(record.levelno)


class _LoggedTracebacks:
    """The functions of `traceback` that gRPC's module uses; it prints what it has just logged."""

    format_exception = staticmethod(traceback.format_exception)

    @staticmethod
    def print_exc() -> None:
        """Print nothing."""


def keep_grpc_to_the_log() -> None:
    """Keep gRPC from printing tracebacks past the log; call after gRPC was imported."""
    cygrpc = sys.modules["grpc._cython.cygrpc"]
    vars(cygrpc)["traceback"] = _LoggedTracebacks


class BurstHandler(logging.StreamHandler[TextIO]):
    """A handler that writes the records of one turn of the event loop together.

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

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - overrides
        """Write that a record could not be logged, in the log's format."""
        failure = logging.LogRecord(
            __name__,
            logging.ERROR,
            record.pathname,
            record.lineno,
            "cannot log a record of %s:%d",
            (record.pathname, record.lineno),
            sys.exc_info(),
        )
        with suppress(OSError, ValueError):  # standard error itself does not take lines
            self.stream.write(self.format(failure) + self.terminator)

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
    """A formatter that writes a record as a JSON object on one line."""

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
    """A formatter that writes a record as text, with its fields as `name=value` at the end."""

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
