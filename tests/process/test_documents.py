"""Documents are right: code blocks are executed; commands, settings, paths and links exist.

What happens to a code block depends on its info string:

- `console`: the commands run in order on an empty database, and must print what is shown.
- `python`: the program runs twice on one server.
- `sh`: the commands run in order in one directory, with `palaver` on the path.
- `sh example`: not executed, since it needs a network or more time. As in every `sh` block, the
  names of commands, flags, settings and make targets are checked.
- `toml`: parsed as a credentials file.
- `json`: parsed as a line of the log, whose logger must be a module.
"""

import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest

from bench.__main__ import main as bench
from chaos.__main__ import main as chaos
from docs import settings_page
from fuzz.__main__ import main as fuzz
from palaver_server.auth.credentials_file import CredentialsFile
from palaver_server.cli.main import main
from palaver_server.config import NO_FLAG, OLD_NAMES, Settings, flag, variable
from tests.support.client import Client
from tests.support.documents import ADDRESS, DOCUMENTS, Command, Document
from tests.support.palaver_process import StartPalaver
from tests.support.processes import ROOT

# Values that differ between runs.
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")

# Read by commands other than `palaver serve`, by the tests, or by the shell.
OTHER_VARIABLES = {
    "PALAVER_ADDRESS",
    "PALAVER_API_KEY",
    "PALAVER_API_KEY_FILE",
    "PALAVER_TEST_DATABASE_URL",
    "PALAVER_TLS_CA",
}

# Besides make, palaver and pip.
OTHER_PROGRAMS = {
    ".venv/bin/pip",
    ".venv/bin/pre-commit",
    ".venv/bin/python",
    "cd",
    "git",
    "go",
    "grpcurl",
    "openssl",
}

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))

needs_grpcurl = pytest.mark.skipif(
    shutil.which("grpcurl") is None, reason="grpcurl is not installed"
)
needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="openssl is not installed"
)


def having(info: str) -> list[Document]:
    """Return the documents with blocks of this kind; there is at least one."""
    documents = [document for document in DOCUMENTS if document.blocks(info)]
    assert documents, info
    return documents


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
    (code,) = document.blocks("python")
    result = subprocess.run(
        [sys.executable, "-c", code.replace(ADDRESS, palaver.address)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "generated" / "python")},
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
                "PYTHONPATH": f"{ROOT}/server:{ROOT}/generated/python",
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
        server = self._start_palaver("serve", *flags, "--database-url", self._database_url)
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


@pytest.mark.parametrize("document", having("toml"), ids=str)
def test_entries_of_the_credentials_file_are_valid(document: Document) -> None:
    (entry,) = document.blocks("toml")

    assert CredentialsFile.parse(entry.encode()).find_certificate("CN=ingest,O=Example")


def subcommand(name: str) -> click.Command:
    """Return the command `palaver NAME`."""
    command = main.get_command(click.Context(main), name)
    assert command, name
    return command


@pytest.mark.parametrize("document", having("json"), ids=str)
def test_log_lines_come_from_a_module(document: Document) -> None:
    for line in document.blocks("json"):
        assert importlib.import_module(json.loads(line)["logger"])


def check_command(command: Command) -> None:
    """Check the names in a command: its program, subcommand, flags, settings, targets, extras."""
    program, *words = command.words
    settings: dict[str, Any] = {
        name: command.variables[variable(name)]
        for name in Settings.model_fields
        if variable(name) in command.variables
    }
    match program:
        case "make":
            assert {word for word in words if "=" not in word} <= TARGETS
            Settings(**settings)
        case "palaver" | ".venv/bin/palaver":
            name, *arguments = [word for word in words if word != "--help"]
            with subcommand(name).make_context(name, arguments) as context:
                given = {key: value for key, value in context.params.items() if value is not None}
            if name in {"serve", "migrate"}:
                Settings(**settings, **given)
        case ".venv/bin/pip":
            for extra in re.findall(r"\[(\w+)\]", " ".join(words)):
                assert extra in PROJECT["optional-dependencies"]
        case _:
            assert program in OTHER_PROGRAMS


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_shell_commands_name_what_exists(
    document: Document, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for command in document.shell_commands:
        for word in command.words:
            if re.fullmatch(r"[\w-]+\.(pem|key|toml)", word):
                (tmp_path / word).touch()
        if command.words:
            check_command(command)


def all_flags() -> set[str]:
    """Return all flags of the project's programs."""
    subcommands = map(subcommand, main.list_commands(click.Context(main)))
    return {
        spelling
        for command in (*subcommands, main, bench, chaos, fuzz)
        for option in command.get_params(click.Context(command))
        if isinstance(option, click.Option)
        for spelling in (*option.opts, *option.secondary_opts)
    }


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_settings_in_the_text_exist(document: Document) -> None:
    if document.path.name == "CHANGELOG.md":
        return  # names settings of older versions
    settings = {variable(name) for name in (*Settings.model_fields, *OLD_NAMES.values())}

    named = set(re.findall(r"\bPALAVER_[A-Z_]+[A-Z]\b", document.text))
    flags = {re.split(r"[ =]", code)[0] for code in document.inline_code if code.startswith("--")}

    assert named <= settings | OTHER_VARIABLES
    assert flags <= all_flags()


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_links_lead_somewhere(document: Document) -> None:
    for link in document.links:
        path, _, anchor = link.partition("#")
        target = (document.path.parent / path).resolve() if path else document.path
        assert target.exists(), link
        if anchor:
            assert anchor in Document(target).anchors, link


# Where the path of a file or folder in backquotes may begin.
PLACES = (ROOT, ROOT / "server" / "palaver_server")


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_paths_in_the_text_exist(document: Document) -> None:
    if document.path.name == "CHANGELOG.md":
        return
    for code in document.inline_code:
        if re.fullmatch(r"\.?[a-z_]\w*(/[\w.-]+)+/?|[\w/]+/|\w+\.(py|md)", code):
            places = (*PLACES, document.path.parent)
            assert any((place / code).exists() for place in places), code


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 250


def test_settings_page_has_row_per_setting() -> None:
    page = settings_page.page()

    for name, field in Settings.model_fields.items():
        shown = "" if name in NO_FLAG else f"`{flag(name)}`"
        row = f"| {shown} | `{variable(name)}` | "
        (line,) = [line for line in page.splitlines() if line.startswith(row)]
        assert line.endswith(f" | {field.description} |")
        if name != "data_dir":
            default = "" if field.default in (None, "") else f"`{field.default}`"
            assert f"| {default} |".lower() in line.lower()
