"""Fixtures of the tests that run commands of `palaver`, or a server as a process."""

from tests.support.palaver_process import (
    cluster,
    data_dir,
    directory,
    run_palaver,
    serve,
    session_id,
    start_palaver,
)

__all__ = [
    "cluster",
    "data_dir",
    "directory",
    "run_palaver",
    "serve",
    "session_id",
    "start_palaver",
]
