"""The log: lines for people on a terminal, JSON elsewhere."""

import json
import logging
from datetime import UTC, datetime
from typing import Any

from server.call import running_call

# They are in no line, and so need not be found out for each.
logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


# Whatever a record carries can be written.
_encode = json.JSONEncoder(default=str).encode


def set_up(*, level: str, format: str) -> None:
    """Has everything logged to standard error.

    Args:
        level: The least level logged.
        format: `text`, `json`, or `auto`: text on a terminal, JSON elsewhere.
    """
    handler = logging.StreamHandler()
    is_text = handler.stream.isatty() if format == "auto" else format == "text"
    handler.setFormatter(TextFormatter() if is_text else JsonFormatter())
    logging.basicConfig(level=level, handlers=[handler])


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
