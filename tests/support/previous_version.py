"""The versions before this one, from the history of the repository."""

import subprocess
import tarfile
from io import BytesIO
from pathlib import Path

import pytest

from tests.support.processes import ROOT

# Their last commits. To be set when a version is released; the forms of functions, columns, locks
# and triggers that are kept for older ones can then go.
COMMITS = {
    "before the search language was an argument": "dcf53f5df6084532381b7938c18da6b0fd061841",
    "v0.1.0-alpha.1": "6aa7d4bdf4515513e337330fe72a29f9cf798e6e",
}

# Of these versions; later ones have the stubs in `clients/python`.
_IMPORT_ROOTS = ("server", "generated/python")


def extract_version(commit: str, directory: Path) -> dict[str, str]:
    """Extract a version to a directory; return the variables with which `palaver` runs it.

    Skips the test where the history is missing, as in a shallow clone or an archive.
    """
    git = ["git", "-C", str(ROOT)]
    archive = subprocess.run(
        [*git, "archive", "--format=tar", commit, *_IMPORT_ROOTS], capture_output=True, check=False
    )
    if archive.returncode:
        pytest.skip(f"the history lacks commit {commit[:7]}: {archive.stderr.decode().strip()}")
    with tarfile.open(fileobj=BytesIO(archive.stdout)) as files:
        files.extractall(directory, filter="data")
    return {"PYTHONPATH": ":".join(str(directory / root) for root in _IMPORT_ROOTS)}
