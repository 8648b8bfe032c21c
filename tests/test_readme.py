"""What the README shows is what happens."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import Client

README = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
ADDRESS = "127.0.0.1:50051"

# What differs from run to run.
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def _commands() -> list[tuple[str, str]]:
    """Gives each command of the console blocks with the output shown below it."""
    lines = "\n".join(_blocks("console"))
    parts = re.split(r"^\$ (.*)$", lines, flags=re.MULTILINE)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


def _comparable(output: str) -> list[Any]:
    """Gives the JSON values of an output, or its text if it is an error."""
    output = TIME.sub("<time>", output).expandtabs(4).strip()
    if output.startswith("ERROR"):
        return [re.sub(r"\s+", " ", output)]
    decoder, values, position = json.JSONDecoder(), [], 0
    while position < len(output):
        value, end = decoder.raw_decode(output, position)
        values.append(value)
        position = end + len(output[end:]) - len(output[end:].lstrip())
    return values


@pytest.mark.skipif(shutil.which("grpcurl") is None, reason="grpcurl is not installed")
def test_the_commands_print_what_the_readme_shows(palaver: Client) -> None:
    commands = _commands()
    assert len(commands) > 10

    for command, shown in commands:
        arguments = shlex.split(command.replace(ADDRESS, palaver.address))
        assert arguments[0] == "grpcurl"
        result = subprocess.run(arguments, capture_output=True, text=True, check=False)
        assert _comparable(result.stdout + result.stderr) == _comparable(shown), command


def test_the_python_code_runs(palaver: Client) -> None:
    (code,) = _blocks("python")

    result = subprocess.run(
        [sys.executable, "-c", code.replace(ADDRESS, palaver.address)],
        env={**os.environ, "PYTHONPATH": str(Path("generated/python").absolute())},
        capture_output=True,
        text=True,
        check=False,
    )

    assert result.returncode == 0, result.stderr
    assert "NOT_FOUND palaver.v1.Session talk" in result.stdout
    assert "1 messages purged of 1" in result.stdout
