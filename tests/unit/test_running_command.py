"""The command that a running server tells its user to type."""

import sys
from pathlib import Path

import pytest

from palaver_server.process.running_command import running_command


@pytest.fixture
def palaver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program in a virtual environment below the working directory, which runs this process."""
    program = tmp_path / ".venv" / "bin" / "palaver"
    program.parent.mkdir(parents=True)
    program.touch(mode=0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(program), "serve"])
    monkeypatch.setenv("PATH", "/nowhere")
    return program


def test_running_command_outside_of_path_is_its_path(
    palaver: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert running_command() == ".venv/bin/palaver"
    monkeypatch.chdir(palaver.parent)
    assert running_command() == str(palaver)


def test_running_command_on_path_is_its_name(
    palaver: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(palaver.parent))

    assert running_command() == "palaver"


def test_running_command_hidden_by_another_on_path_is_its_path(
    palaver: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "palaver").touch(mode=0o755)
    monkeypatch.setenv("PATH", f"{other}:{palaver.parent}")

    assert running_command() == ".venv/bin/palaver"


@pytest.mark.usefixtures("palaver")
def test_running_module_is_run_by_its_interpreter(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["/lib/palaver_server/__main__.py"])
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv" / "bin" / "python"))

    assert running_command() == ".venv/bin/python -m palaver_server"
