"""End a child process when this process is gone, also if SIGKILL ended it."""

import os
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

# The shell waits for the end of its standard input, a pipe that only this process holds open for
# writing: the kernel closes it together with the process. The last line that was read says which
# process to signal. The signal is repeated every second, up to 30 times, until that process has
# ended: one that arrives while PostgreSQL starts may have no effect.
_SCRIPT = """
while read -r line; do target=$line; done
left=30
while [ -n "$target" ] && [ $left -gt 0 ] && kill $target; do sleep 1; left=$((left - 1)); done
"""


class Watchdog:
    """A shell that signals a process when this process ends without having called `close`.

    Linux could send a signal by itself (PR_SET_PDEATHSIG), but macOS could not, and Linux sends it
    already when the thread that started the child ends.

    Args:
        account: Arguments of `subprocess.Popen` that say as which user the shell runs.
    """

    def __init__(self, account: Mapping[str, Any]) -> None:
        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", _SCRIPT],
            cwd="/",
            env={"PATH": os.defpath},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,  # Ctrl-C on the terminal does not reach it
            **account,
        )

    def guard(self, pid: int, signal_name: str) -> None:
        """Have this process signalled instead of the one before; a negative id is a group's."""
        self._write(f"-s {signal_name} -- {pid}\n")

    def release(self) -> None:
        """Have no process signalled: the guarded one has exited, and its id may be reused."""
        self._write("\n")

    def close(self) -> None:
        """End the shell without a signal to any process."""
        self.release()
        self._shell.communicate()

    def _write(self, line: str) -> None:
        # If the shell was killed, nothing is guarded: the next start stops leftover processes.
        if self._shell.stdin:
            with suppress(BrokenPipeError):
                self._shell.stdin.write(line.encode())
