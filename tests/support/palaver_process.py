"""Fixtures that start `palaver` as a process, and stop everything it started after the test."""

import logging
import os
import traceback
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple, Protocol

import pytest
from click.testing import CliRunner

from palaver_server.cli.main import main
from tests.support.client import Client, connected
from tests.support.clusters import Cluster
from tests.support.processes import PalaverProcess, scratch_directory


class StartPalaver(Protocol):
    """Start `palaver` with these arguments and environment variables."""

    def __call__(self, *arguments: str, **variables: str) -> PalaverProcess: ...


class Ended(NamedTuple):
    """The exit status of a command, its output, and its log at the level DEBUG."""

    status: int
    printed: str
    logged: str

    @property
    def output(self) -> str:
        """The log and the output."""
        return self.logged + self.printed


class RunPalaver(Protocol):
    """Run `palaver` with these arguments and variables until it ends."""

    def __call__(self, *arguments: str, **variables: str) -> Ended: ...


class Serve(Protocol):
    """Start `palaver serve` on a free port; return the process and a client."""

    def __call__(self, *arguments: str, **variables: str) -> tuple[PalaverProcess, Client]: ...


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory for a test; processes in it end with the test."""
    with scratch_directory() as directory:
        yield directory


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A data directory that was in use before."""
    with scratch_directory() as directory:
        yield Cluster(directory / "data")


@pytest.fixture
def data_dir(cluster: Cluster, directory: Path) -> Iterator[Path]:
    """The data directory, lent to the test with the data of earlier tests."""
    with cluster.lent(directory / "data") as data_dir:
        yield data_dir


@pytest.fixture
def session_id() -> str:
    """The id of a session that no other test has."""
    return f"s-{uuid.uuid4()}"


@pytest.fixture
def start_palaver(directory: Path) -> Iterator[StartPalaver]:
    """A function that starts processes, which end with the test."""
    with ExitStack() as stack:

        def start(*arguments: str, **variables: str) -> PalaverProcess:
            palaver = PalaverProcess(arguments, directory, variables)
            stack.callback(palaver.kill)
            return palaver

        yield start


@pytest.fixture
def run_palaver(caplog: pytest.LogCaptureFixture, directory: Path) -> RunPalaver:
    """A function that runs commands in this process, which is faster than starting one."""
    settings = {name: None for name in os.environ if name.startswith("PALAVER_")}
    own = {"XDG_DATA_HOME": str(directory), "PALAVER_EMBEDDER": "none"}
    own |= {"PALAVER_LOG_FORMAT": "text", "PALAVER_DATABASE_WAIT_SECONDS": "0"}
    runner = CliRunner(env={**settings, **own})
    caplog.set_level(logging.DEBUG)

    def run(*arguments: str, **variables: str) -> Ended:
        result = runner.invoke(main, arguments, env=variables)
        printed = result.output
        if result.exception and not isinstance(result.exception, SystemExit):
            printed += "".join(traceback.format_exception(result.exception))
        return Ended(result.exit_code, printed, caplog.text)

    return run


@pytest.fixture
def serve(start_palaver: StartPalaver) -> Iterator[Serve]:
    """A function that starts servers, which end with the test."""
    with ExitStack() as stack:

        def start(*arguments: str, **variables: str) -> tuple[PalaverProcess, Client]:
            if "--listen" not in arguments:
                arguments = ("--listen", "127.0.0.1:0", *arguments)
            palaver = start_palaver("serve", *arguments, **variables)
            address = palaver.prints(r"listening on ([^\s\"]+)")[1]
            return palaver, stack.enter_context(connected(address))

        yield start
