"""The log of child processes: a file of bounded size that only its owner can read."""

import io
import logging
import os
import sys
import threading
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import IO

_LOGGER = logging.getLogger(__name__)

MAX_BYTES = 10 * 1024 * 1024

# Older files: postgres.log.1 is newer than postgres.log.2.
_MAX_OLD_FILES = 2


class RotatedLog(RotatingFileHandler):
    """A file that takes the output of child processes, and is rotated when it is full.

    A thread copies the output, rather than PostgreSQL's logging collector: the collector rotates
    by size too, but deletes no file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(
            path,
            maxBytes=MAX_BYTES,
            backupCount=_MAX_OLD_FILES,
            encoding="utf-8",
            errors="backslashreplace",
            delay=True,
        )
        self._failed = False

    def copy(self, output: IO[bytes]) -> threading.Thread:
        """Copy the lines of a pipe until its last writer has exited, in a thread."""
        thread = threading.Thread(target=self._copy, args=(output,), daemon=True)
        thread.start()
        return thread

    def _copy(self, output: IO[bytes]) -> None:
        with output:
            for line in output:
                text = line.decode("utf-8", "backslashreplace").rstrip("\n")
                self.handle(logging.makeLogRecord({"msg": text}))

    def _open(self) -> io.TextIOWrapper:
        file = open_private(Path(self.baseFilename), os.O_WRONLY | os.O_APPEND)
        return io.TextIOWrapper(
            io.FileIO(file, "ab"), encoding=self.encoding, errors=self.errors, write_through=True
        )

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802 - overrides
        """Report a line that could not be written, once; a full disk would fail each of them."""
        if not self._failed:
            _LOGGER.error(
                "cannot write %s; its lines are lost", self.baseFilename, exc_info=sys.exc_info()
            )
        self._failed = True


def open_private(path: Path, flags: int) -> int:
    """Open a file that only its owner can read and write; create it if missing."""
    file = os.open(path, flags | os.O_CREAT, 0o600)
    os.fchmod(file, 0o600)  # an earlier version made it readable for all
    return file
