"""The machine and the versions that the figures were measured on."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import psutil

from bench.stage import Stage

_PACKAGES = ("grpcio", "protobuf", "uvloop", "psycopg", "psycopg-pool")


def description(stage: Stage, ghz_program: str | None) -> list[str]:
    """Describe the machine and the versions, one per line."""
    with stage.full.database.connected() as connection:
        row = connection.execute("SHOW server_version").fetchone()
    cores, memory = len(os.sched_getaffinity(0)), psutil.virtual_memory().total / 2**30
    packages = ", ".join(f"{package} {version(package)}" for package in _PACKAGES)
    system = f"{platform.system()} {platform.machine()}, data on {_file_system(stage.directory)}"
    return [
        f"{cores} cores, {memory:.0f} GiB of memory, {system}",
        f"Python {platform.python_version()}, {packages}",
        f"PostgreSQL {row[0] if row else '?'}, {_ghz_version(ghz_program)}",
    ]


def _file_system(path: Path) -> str:
    """Return the type of the file system: on one in memory, no commit is durable."""
    mounts = [
        mount for mount in psutil.disk_partitions(all=True) if path.is_relative_to(mount.mountpoint)
    ]
    return str(max(mounts, key=lambda mount: len(mount.mountpoint)).fstype) if mounts else "?"


def _ghz_version(program: str | None) -> str:
    if program is None:
        return "no ghz"
    ran = subprocess.run([program, "--version"], check=True, capture_output=True, text=True)
    return f"ghz {(ran.stdout + ran.stderr).strip()}"
