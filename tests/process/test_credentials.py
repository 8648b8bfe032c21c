"""`palaver keys`, public addresses, and `palaver purge` over TLS."""

import re
from pathlib import Path

import pytest

from palaver_server.auth.credentials_file import CredentialsFile
from palaver_server.auth.principal import Principal
from palaver_server.auth.roles import Role
from tests.conftest import StartServer
from tests.support.callers import KeysFile, caller
from tests.support.certificates import Authority
from tests.support.client import Client
from tests.support.palaver_process import RunPalaver, Serve


def test_keys_command_prints_entry_and_key(run_palaver: RunPalaver) -> None:
    ended = run_palaver("keys", "ci", "--role", "writer", "--user-id", "ada")
    again = run_palaver("keys", "ci", "--role", "writer", "--user-id", "ada")

    assert ended.status == 0
    entry, _, told = ended.printed.partition("The key, ")
    (key,) = re.findall(r"palaver_\S+", told)
    assert "palaver_" not in entry
    assert CredentialsFile.parse(entry.encode()).keys.find(key) == Principal(
        "ci", Role.WRITER, "ada"
    )
    assert key not in again.printed
    assert key not in ended.logged


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("ci",),
        ("ci", "--role", "god"),
        ("ci\nci", "--role", "writer"),
        ("ci", "--role", "writer", "--user-id", ""),
        ("ci", "--role", "admin", "--user-id", "ada"),
    ],
)
def test_keys_command_invalid_options_are_refused(
    run_palaver: RunPalaver, arguments: tuple[str, ...]
) -> None:
    ended = run_palaver("keys", *arguments)

    assert ended.status == 2
    assert "palaver_" not in ended.printed
    assert "Traceback" not in ended.printed


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "palaver.example:0"])
def test_serve_publicly_without_security_is_refused_before_start(
    run_palaver: RunPalaver, directory: Path, listen: str
) -> None:
    data_dir = directory / "data"

    ended = run_palaver("serve", "--listen", listen, "--data-dir", str(data_dir))

    assert ended.status == 2
    assert f"--listen {listen}" in ended.printed
    assert "--insecure" in ended.printed
    assert not data_dir.exists()


def test_serve_publicly_without_security_is_possible_by_flag(
    serve: Serve, database_url: str
) -> None:
    for insecure in (["--insecure"], ["--insecure", "true"]):
        _, client = serve(*insecure, "--listen", "0.0.0.0:0", "--database-url", database_url)
        with caller(client.address.replace("0.0.0.0", "127.0.0.1")) as stranger:
            stranger.add("s", "hello")


def test_migrate_needs_no_security_settings(run_palaver: RunPalaver, database_url: str) -> None:
    ended = run_palaver(
        "migrate", PALAVER_DATABASE_URL=database_url, PALAVER_LISTEN="0.0.0.0:50051"
    )

    assert ended.status == 0, ended.output


def test_serve_with_broken_credentials_file_is_refused(
    run_palaver: RunPalaver, database_url: str, tmp_path: Path
) -> None:
    (tmp_path / "credentials.toml").write_text("[[key]]\nname = 1\n")

    ended = run_palaver(
        *("serve", "--listen=127.0.0.1:0", "--database-url", database_url),
        *("--credentials", str(tmp_path / "credentials.toml")),
    )

    assert ended.status == 1
    assert f"Error: credentials {tmp_path}/credentials.toml: key.0.name: " in ended.printed
    assert "Traceback" not in ended.printed


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """The authority that issued the certificates of server and client."""
    authority = Authority()
    authority.issue().write(tmp_path / "server.pem", tmp_path / "server.key")
    authority.issue(("CN", "cleaner")).write(tmp_path / "client.pem", tmp_path / "client.key")
    (tmp_path / "ca.pem").write_bytes(authority.certificate)
    return authority


@pytest.fixture
def keys_file(tmp_path: Path) -> KeysFile:
    return KeysFile(tmp_path / "credentials.toml")


@pytest.fixture
def secured(start_server: StartServer, authority: Authority, keys_file: KeysFile) -> Client:
    """A client without a credential, of a server that requires TLS and a key."""
    keys_file.add(Role.ADMIN)
    directory = keys_file.path.parent
    return start_server(
        tls_certificate=directory / "server.pem",
        tls_key=directory / "server.key",
        credentials=keys_file.path,
    )


def test_purge_command_sends_key_over_tls(
    run_palaver: RunPalaver, secured: Client, keys_file: KeysFile
) -> None:
    ca = str(keys_file.path.parent / "ca.pem")
    (admin,) = keys_file.keys
    by_flag = ("purge", "--address", secured.address, "--tls-ca", ca)

    assert run_palaver(*by_flag, PALAVER_API_KEY=admin).printed.endswith("0 sessions, 0 users\n")

    by_variables = run_palaver(
        "purge", PALAVER_ADDRESS=secured.address, PALAVER_TLS_CA=ca, PALAVER_API_KEY=admin
    )
    assert by_variables.status == 0

    without = run_palaver(*by_flag)
    assert without.status == 1
    assert without.printed.startswith("Error: UNAUTHENTICATED: ")

    wrong = run_palaver(*by_flag, PALAVER_API_KEY=admin + "x")
    assert wrong.printed.startswith("Error: UNAUTHENTICATED: ")
    assert admin not in wrong.output


def test_purge_command_sends_client_certificate(
    run_palaver: RunPalaver, start_server: StartServer, authority: Authority, keys_file: KeysFile
) -> None:
    directory = keys_file.path.parent
    keys_file.add_certificate("CN=cleaner", Role.ADMIN)
    server = start_server(
        tls_certificate=directory / "server.pem",
        tls_key=directory / "server.key",
        tls_client_ca=directory / "ca.pem",
        credentials=keys_file.path,
    )

    ended = run_palaver(
        *("purge", "--address", server.address, "--tls-ca", str(directory / "ca.pem")),
        *("--tls-certificate", str(directory / "client.pem")),
        *("--tls-key", str(directory / "client.key")),
    )

    assert ended.printed.endswith("purged 0 messages, 0 sessions, 0 users\n"), ended.output


def test_purge_command_sends_no_key_in_plaintext_to_another_machine(
    run_palaver: RunPalaver,
) -> None:
    ended = run_palaver("purge", "--address", "192.0.2.1:50051", PALAVER_API_KEY="palaver_secret")

    assert ended.status == 1
    assert "--tls-ca" in ended.printed
    assert "palaver_secret" not in ended.output


@pytest.mark.parametrize("flag", ["--tls-certificate", "--tls-key"])
def test_purge_command_needs_certificate_and_key(
    run_palaver: RunPalaver, authority: Authority, tmp_path: Path, flag: str
) -> None:
    ended = run_palaver("purge", flag, str(tmp_path / "ca.pem"))

    assert ended.status == 1
    assert "need each other" in ended.printed


def test_log_at_debug_level_shows_no_key(
    serve: Serve, database_url: str, keys_file: KeysFile
) -> None:
    key = keys_file.add()
    palaver, client = serve(
        *("--log-level", "DEBUG", "--database-url", database_url),
        *("--credentials", str(keys_file.path)),
    )
    with caller(client.address, key) as known:
        known.add_session("s")

    assert palaver.stop() == 0
    assert key not in palaver.output
