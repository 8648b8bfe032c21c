"""Fixtures of the tests that kill, freeze and cut off servers and databases."""

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
