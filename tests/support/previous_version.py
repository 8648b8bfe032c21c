"""The version before this one, from the history of the repository."""

import subprocess
import tarfile
from io import BytesIO
from pathlib import Path

import pytest

from tests.support.processes import ROOT

# Its last commit. To be set when a version is released; the forms of functions, columns and locks
# that are kept for it can then go.
COMMIT = "dcf53f5df6084532381b7938c18da6b0fd061841"

_IMPORT_ROOTS = ("server", "generated/python")


def extract_previous_version(directory: Path) -> dict[str, str]:
    """Extract it to a directory; return the variables with which `palaver` runs it.

    Skips the test where the history is missing, as in a shallow clone or an archive.
    """
    git = ["git", "-C", str(ROOT)]
    archive = subprocess.run(
        [*git, "archive", "--format=tar", COMMIT, *_IMPORT_ROOTS], capture_output=True, check=False
    )
    if archive.returncode:
        pytest.skip(f"the history lacks commit {COMMIT[:7]}: {archive.stderr.decode().strip()}")
    with tarfile.open(fileobj=BytesIO(archive.stdout)) as files:
        files.extractall(directory, filter="data")
    return {"PYTHONPATH": ":".join(str(directory / root) for root in _IMPORT_ROOTS)}
