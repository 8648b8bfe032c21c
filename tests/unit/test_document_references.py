"""Documents refer to what exists: commands, flags, settings, make targets, paths and links.

Blocks of `toml` are entries of the credentials file, and blocks of `json` lines of the log.
"""

import importlib
import json
import re
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
from siege.__main__ import main as siege
from tests.support.documents import DOCUMENTS, Command, Document, having
from tests.support.processes import ROOT

# Read by commands other than `palaver serve`, by the tests, or by the shell.
OTHER_VARIABLES = {
    "PALAVER_ADDRESS",
    "PALAVER_API_KEY",
    "PALAVER_API_KEY_FILE",
    "PALAVER_ISOLATION_CASES",
    "PALAVER_TEST_DATABASE",
    "PALAVER_TEST_DATABASE_URL",
    "PALAVER_TLS_CA",
}

# Besides make, palaver and pip.
OTHER_PROGRAMS = {
    ".venv/bin/pip",
    ".venv/bin/pre-commit",
    ".venv/bin/python",
    "cd",
    "export",
    "git",
    "go",
    "grpcurl",
    "mv",
    "openssl",
    "pg_ctl",
    "pg_dump",
    "pg_restore",
    "pip",
}

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))


@pytest.mark.parametrize("document", having("toml"), ids=str)
def test_entries_of_the_credentials_file_are_valid(document: Document) -> None:
    (entry,) = document.blocks("toml")

    assert CredentialsFile.parse(entry.encode()).find_certificate("CN=ingest,O=Example")


@pytest.mark.parametrize("document", having("json"), ids=str)
def test_log_lines_come_from_a_module(document: Document) -> None:
    for line in document.blocks("json"):
        assert importlib.import_module(json.loads(line)["logger"])


def context_of(command: click.Command) -> click.Context:
    """Return a context with the group's settings: a command keeps its first help option."""
    return click.Context(command, **main.context_settings)


def subcommand(name: str) -> click.Command:
    """Return the command `palaver NAME`."""
    command = main.get_command(context_of(main), name)
    assert command, name
    return command


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
            with subcommand(name).make_context(name, arguments, context_of(main)) as context:
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
    """Return all flags of the project's programs, and of its tests."""
    subcommands = map(subcommand, main.list_commands(context_of(main)))
    return {
        spelling
        for command in (*subcommands, main, bench, chaos, siege, fuzz)
        for option in command.get_params(context_of(command))
        if isinstance(option, click.Option)
        for spelling in (*option.opts, *option.secondary_opts)
    } | {"--no-skips"}


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


# The path of a test file in backquotes, and the name of a test in it.
TEST = re.compile(r"(tests/[\w/]+/test_\w+\.py)(?:::(test_\w+))?")


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_tests_in_the_text_exist(document: Document) -> None:
    for code in document.inline_code:
        if found := TEST.fullmatch(code):
            path, name = found.groups()
            tests = (ROOT / path).read_text("utf-8")
            wanted = f"def {name}(" if name else "def test_"
            assert wanted in tests, code


def test_security_page_names_tests_of_every_threat() -> None:
    text = (ROOT / "SECURITY.md").read_text("utf-8")
    table = text.partition("## Threats and their tests")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][2:]

    assert len(rows) >= 15
    assert [row for row in rows if not TEST.search(row.split(" | ")[1])] == []


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
