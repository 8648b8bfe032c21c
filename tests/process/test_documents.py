"""The code blocks of documents are executed.

What happens to a block depends on its info string:

- `console`: the commands run in order on an empty database, and must print what is shown.
- `python`: the blocks of a document are one program, which runs twice on one server.
- `python example`: only compiled.
- `sh`: the commands run in order in one directory, with `palaver` on the path.
- `sh example`: not executed, since a command needs a network or much time.

`tests/unit/test_document_references.py` checks the names in all of them.
"""

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
from tests.support.documents import ADDRESS, DOCUMENTS, Document, having
from tests.support.palaver_process import StartPalaver
from tests.support.processes import ROOT

# Values that differ between runs.
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")

needs_grpcurl = pytest.mark.skipif(
    shutil.which("grpcurl") is None, reason="grpcurl is not installed"
)
needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="openssl is not installed"
)


def comparable(output: str) -> list[Any]:
    """Return the JSON values of an output, or its text if it is an error."""
    output = TIME.sub("<time>", output).expandtabs(4).strip()
    if output.startswith("ERROR"):
        return [re.sub(r"\s+", " ", output)]
    decoder, values, position = json.JSONDecoder(), [], 0
    while position < len(output):
        value, end = decoder.raw_decode(output, position)
        values.append(value)
        position = end + len(output[end:]) - len(output[end:].lstrip())
    return values


@needs_grpcurl
@pytest.mark.parametrize("document", having("console"), ids=str)
def test_console_commands_print_what_is_shown(document: Document, palaver: Client) -> None:
    for command, shown in document.console_commands:
        arguments = shlex.split(command.replace(ADDRESS, palaver.address))
        assert arguments[0] == "grpcurl"
        result = subprocess.run(arguments, capture_output=True, text=True, check=False)
        assert comparable(result.stdout + result.stderr) == comparable(shown), command


def test_tour_is_long() -> None:
    commands = [one for document in having("console") for one in document.console_commands]

    assert len(commands) > 20


def run_python(document: Document, palaver: Client) -> str:
    """Run the programs of a document, and return what they print."""
    code = "\n".join(document.blocks("python"))
    result = subprocess.run(
        [sys.executable, "-c", code.replace(ADDRESS, palaver.address)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "clients" / "python")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("document", having("python"), ids=str)
def test_python_runs_twice(document: Document, palaver: Client) -> None:
    run_python(document, palaver)

    run_python(document, palaver)


@pytest.mark.parametrize("document", having("python example"), ids=str)
def test_python_example_compiles(document: Document) -> None:
    for code in document.blocks("python example"):
        compile(code, str(document), "exec")


def test_python_for_clients_prints_error_details_and_progress(palaver: Client) -> None:
    (clients,) = [document for document in DOCUMENTS if document.path.name == "clients.md"]

    printed = run_python(clients, palaver)

    assert "NOT_FOUND palaver.v1.Session talk-" in printed
    assert "1 messages purged of 1" in printed


class Shell:
    """Runs the commands of `sh` blocks one after the other, in one directory.

    `palaver serve` runs in the background, on a free port that later commands use in place of
    50051. The variable KEY is the API key printed last.
    """

    def __init__(self, directory: Path, start_palaver: StartPalaver, database_url: str) -> None:
        self._directory = directory
        self._start_palaver = start_palaver
        self._database_url = database_url
        self._variables = {"PATH": f"{directory}/bin:{os.environ['PATH']}"}
        self._port = "50051"
        program = directory / "bin" / "palaver"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m palaver_server "$@"\n')
        program.chmod(0o755)

    def run(self, line: str) -> str:
        """Run a command, and return what it prints."""
        if line.startswith("palaver serve "):
            return self._serve(line.split()[2:])
        result = subprocess.run(
            ["sh", "-ec", line.replace("50051", self._port)],
            cwd=self._directory,
            env={
                **os.environ,
                "PYTHONPATH": f"{ROOT}/server:{ROOT}/clients/python",
                **self._variables,
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, f"{line}\n{result.stderr}"
        printed = result.stdout + result.stderr
        for key in re.findall(r"palaver_\S+", printed):
            self._variables["KEY"] = key
        return printed

    def _serve(self, flags: list[str]) -> str:
        files = [self._directory / word for word in flags]
        flags = [
            str(file) if file.exists() else word for file, word in zip(files, flags, strict=True)
        ]
        flags[flags.index("--listen") + 1] = "0.0.0.0:0"
        server = self._start_palaver("serve", *flags, PALAVER_DATABASE_URL=self._database_url)
        self._port = server.prints(r"listening on 0\.0\.0\.0:(\d+)")[1]
        return ""


@needs_grpcurl
@needs_openssl
@pytest.mark.parametrize("document", having("sh"), ids=str)
def test_shell_commands_succeed(
    document: Document, start_palaver: StartPalaver, directory: Path, database_url: str
) -> None:
    shell = Shell(directory, start_palaver, database_url)

    printed = [
        shell.run(line) for block in document.blocks("sh") for line in block.splitlines() if line
    ]

    if document.path.name == "security.md":
        assert '"session_id": "s"' in "".join(printed)
