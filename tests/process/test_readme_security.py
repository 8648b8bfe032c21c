"""The README's section "Secure it": its commands, one after the other, do what it says."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from palaver_server.auth.credentials_file import CredentialsFile
from palaver_server.config import Settings
from tests.process.conftest import StartPalaver
from tests.support.processes import ROOT

SECTION = (ROOT / "README.md").read_text("utf-8").split("\n## Secure it\n")[1].split("\n## ")[0]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)


def shell(directory: Path, command: str, **variables: str) -> str:
    """Runs a command as a shell does, with `palaver` on its path; gives what it prints."""
    palaver = directory / "bin" / "palaver"
    palaver.parent.mkdir(exist_ok=True)
    palaver.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m palaver_server "$@"\n')
    palaver.chmod(0o755)
    result = subprocess.run(
        ["sh", "-ec", command],
        cwd=directory,
        env={
            **os.environ,
            "PATH": f"{palaver.parent}:{os.environ['PATH']}",
            "PYTHONPATH": f"{ROOT}:{ROOT}/generated/python",
            **variables,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout + result.stderr


@pytest.mark.skipif(
    shutil.which("grpcurl") is None or shutil.which("openssl") is None,
    reason="grpcurl or openssl is not installed",
)
def test_a_secured_server_is_set_up_and_called(
    start_palaver: StartPalaver, directory: Path, database_url: str
) -> None:
    certificates, keys, serve, call, _tokens = blocks("sh")
    shell(directory, certificates)
    (key,) = re.findall(r"palaver_\S+", shell(directory, keys))
    _, _, *flags = (
        str(directory / word) if (directory / word).exists() else word for word in serve.split()
    )
    flags[flags.index("--listen") + 1] = "0.0.0.0:0"
    server = start_palaver("serve", *flags, "--database-url", database_url)
    port = server.prints(r"listening on 0\.0\.0\.0:(\d+)")[1]

    added = shell(directory, call.replace("50051", port), KEY=key)

    assert '"session_id": "s"' in added


def test_the_entry_of_a_certificate_is_one() -> None:
    (entry,) = blocks("toml")

    assert list(CredentialsFile.parse(entry.encode()).subjects) == ["CN=ingest,O=Example"]


def test_the_flags_for_tokens_are_settings_that_fit_together(tmp_path: Path) -> None:
    _palaver, _serve, *words = blocks("sh")[-1].split()
    given: dict[str, Any] = dict(zip(words[::2], words[1::2], strict=True))
    for flag in ("--tls-certificate", "--tls-key"):
        (tmp_path / given[flag]).touch()
        given[flag] = str(tmp_path / given[flag])

    settings = Settings(**{flag[2:].replace("-", "_"): value for flag, value in given.items()})

    assert settings.jwt_audience == "palaver"
