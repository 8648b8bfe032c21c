"""What tests of credentials share."""

from pathlib import Path

import pytest

from palaver_server.auth import sources
from tests.support.callers import KeysFile


@pytest.fixture
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has files looked at more often than anybody needs."""
    monkeypatch.setattr(sources, "SECONDS_BETWEEN_LOOKS_AT_FILES", 0.05)
    monkeypatch.setattr(sources, "_SECONDS_TO_SETTLE", 0.01)


@pytest.fixture
def keys_file(tmp_path: Path) -> KeysFile:
    """A credentials file, empty yet."""
    return KeysFile(tmp_path / "credentials.toml")
