"""The command that runs this process, as a user can type it."""

import os
import shutil
import sys
from pathlib import Path


def running_command() -> str:
    """Return `palaver` if the shell finds this program under that name, or else its path."""
    program = Path(sys.argv[0])
    if program.name == "__main__.py":  # python -m palaver_server
        return f"{_typeable(Path(sys.executable))} -m palaver_server"
    on_path = shutil.which(program.name)
    if on_path and program.exists() and Path(on_path).samefile(program):
        return program.name
    return _typeable(program)


def _typeable(path: Path) -> str:
    """Shorten a path below the working directory, as in `.venv/bin/palaver`."""
    # Not resolved: a virtual environment's Python is a link to the one that it was made with.
    path = Path(os.path.abspath(path))  # noqa: PTH100
    below = Path(os.path.relpath(path))
    # A shell searches PATH, not the working directory, for a name without a slash.
    return str(below if ".." not in below.parts and len(below.parts) > 1 else path)
