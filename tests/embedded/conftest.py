"""Directories for an embedded PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clusters import Cluster
from tests.processes import scratch_directory


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory for a test; what runs in it is ended with the test."""
    with scratch_directory() as directory:
        yield directory


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A data directory that was in use before."""
    with scratch_directory() as directory:
        yield Cluster(directory / "data")


@pytest.fixture
def data_dir(cluster: Cluster, directory: Path) -> Iterator[Path]:
    """The data directory, lent to the test."""
    with cluster.lent(directory / "data") as data_dir:
        yield data_dir
