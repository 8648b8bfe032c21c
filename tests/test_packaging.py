"""The package: what a wheel that is built from the tree holds."""

import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import ROOT, scratch_directory


@pytest.fixture(scope="module")
def wheel() -> Iterator[zipfile.ZipFile]:
    with scratch_directory() as directory:
        command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(directory)]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        (path,) = directory.glob("palaver_server-*.whl")
        with zipfile.ZipFile(path) as wheel:
            yield wheel


def files_in(directory: Path, *suffixes: str) -> set[str]:
    """The names of the files of a directory, as they are to be imported."""
    files = (file for file in directory.rglob("*") if file.suffix in suffixes)
    return {str(file.relative_to(directory)) for file in files}


def test_it_holds_the_server_with_its_migrations(wheel: zipfile.ZipFile) -> None:
    sources = files_in(ROOT / "server", ".py", ".sql")

    assert sources <= set(wheel.namelist())
    assert any(name.endswith(".sql") for name in sources)


def test_it_holds_the_stubs_where_they_import_each_other_from(wheel: zipfile.ZipFile) -> None:
    stubs = files_in(ROOT / "generated" / "python", ".py", ".pyi")

    assert "palaver/v1/session_pb2.py" in stubs
    assert stubs <= set(wheel.namelist())


def test_it_holds_nothing_else(wheel: zipfile.ZipFile) -> None:
    top = {name.partition("/")[0] for name in wheel.namelist()}

    assert {name for name in top if not name.startswith("palaver_server-")} == {
        "palaver_server",
        "palaver",
    }
    assert not [name for name in wheel.namelist() if "__pycache__" in name]


def test_it_installs_the_command(wheel: zipfile.ZipFile) -> None:
    (entry_points,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))

    assert "palaver = palaver_server.cli.main:main" in wheel.read(entry_points).decode()
