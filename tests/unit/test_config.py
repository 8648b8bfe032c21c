"""Settings: flags, variables, defaults, and refused values."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from palaver_server.config import OLD_NAMES, Settings


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the machine's own variables."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"PALAVER_{name.upper()}", raising=False)
    for old_name in OLD_NAMES.values():
        monkeypatch.delenv(f"PALAVER_{old_name.upper()}", raising=False)


def read(**flags: Any) -> Settings:
    return Settings(**flags)


def test_settings_all_have_defaults() -> None:
    settings = read()

    assert settings.listen == "127.0.0.1:50051"
    assert settings.database_url is None
    assert settings.memory_window == 100
    assert settings.purge_interval == timedelta(hours=1)
    assert settings.purge_retention == timedelta(0)


def test_settings_are_set_by_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALAVER_LISTEN", "[::1]:1234")
    monkeypatch.setenv("PALAVER_DATA_DIR", "/data")
    monkeypatch.setenv("PALAVER_PURGE_RETENTION_SECONDS", "1.5")
    monkeypatch.setenv("PALAVER_PURGE_INTERVAL_SECONDS", "0")
    monkeypatch.setenv("PALAVER_DATABASE_URL", "postgresql://host/name")

    settings = read()

    assert settings.listen == "[::1]:1234"
    assert settings.data_dir == Path("/data")
    assert settings.purge_retention == timedelta(seconds=1.5)
    assert settings.purge_interval == timedelta(0)
    assert settings.database_url is not None
    assert settings.database_url.get_secret_value() == "postgresql://host/name"


def test_settings_flag_overrides_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALAVER_LISTEN", "127.0.0.1:1111")

    assert read(listen="127.0.0.1:2222").listen == "127.0.0.1:2222"


def test_settings_old_variable_is_read_unless_new_one_is_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PALAVER_READER_PATIENCE_SECONDS", "1")

    assert read().stream_send_timeout_seconds == 1
    monkeypatch.setenv("PALAVER_STREAM_SEND_TIMEOUT_SECONDS", "2")
    assert read().stream_send_timeout_seconds == 2
    assert read(stream_send_timeout_seconds=3).stream_send_timeout_seconds == 3


@pytest.mark.parametrize("level", ["debug", "Debug", "DEBUG"])
def test_settings_log_level_and_format_ignore_case(level: str) -> None:
    assert read(log_level=level).log_level == "DEBUG"
    assert read(log_format="JSON").log_format == "json"


def test_settings_empty_variable_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALAVER_MEMORY_WINDOW", "")

    assert read().memory_window == 100


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("listen", value) for value in ("50051", "host", "host:", ":1", "host:x", "host:65536")),
        ("listen", "host:-1"),
        ("listen", "unix:"),
        ("tls_certificate", "no such file"),
        ("tls_key", "."),
        ("jwt_keys", "no such file"),
        ("jwt_keys", "http://keys.example/jwks"),
        ("jwt_keys", "ftp://keys.example/jwks"),
        ("jwt_keys", "https://"),
        ("jwt_leeway_seconds", "-1"),
        ("jwt_leeway_seconds", "301"),
        ("database_url", "mysql://host/name"),
        ("database_url", "not a url"),
        ("pool_min_size", "0"),
        ("pool_max_size", "0"),
        ("pool_timeout_seconds", "0"),
        ("memory_window", "0"),
        ("memory_window", "1001"),
        ("purge_interval_seconds", "-1"),
        ("purge_retention_seconds", "-1"),
        ("purge_retention_seconds", "soon"),
        ("purge_retention_seconds", "nan"),
        ("purge_retention_seconds", "inf"),
        ("purge_retention_seconds", "1e20"),
        ("purge_interval_seconds", "nan"),
        ("purge_interval_seconds", "inf"),
        ("purge_batch_size", "0"),
        ("health_interval_seconds", "0"),
        ("shutdown_grace_seconds", "-1"),
        ("metrics_listen", "9464"),
        ("metrics_listen", "host:65536"),
        ("log_level", "LOUD"),
        ("log_format", "xml"),
    ],
)
def test_settings_invalid_value_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"PALAVER_{name.upper()}", value)

    with pytest.raises(ValidationError) as raised:
        read()

    assert [error["loc"] for error in raised.value.errors()] == [(name,)]


def test_settings_all_invalid_values_are_named_together() -> None:
    bad: dict[str, Any] = {"listen": "x", "memory_window": 0, "log_level": "LOUD"}

    with pytest.raises(ValidationError) as raised:
        read(**bad)

    assert {error["loc"] for error in raised.value.errors()} == {(name,) for name in bad}


@pytest.mark.parametrize(
    "listen", ["127.0.0.1:0", "0.0.0.0:65535", "localhost:1", "[::]:50051", "unix:/run/p.sock"]
)
def test_settings_address_is_host_and_port_or_socket(listen: str) -> None:
    assert read(listen=listen, insecure=True).listen == listen


def test_settings_database_password_is_hidden() -> None:
    settings = read(database_url="postgresql://user:secret@host/name")

    assert "secret" not in repr(settings)
    assert "secret" not in str(settings.model_dump())


def test_settings_invalid_database_url_is_not_quoted() -> None:
    with pytest.raises(ValidationError) as raised:
        read(database_url="postgresql://user:secret@host:port/name%")

    assert "secret" not in raised.value.errors()[0]["msg"]


@pytest.fixture
def paths(tmp_path: Path) -> dict[str, Path]:
    """Files for the settings that name files."""
    names = ("tls_certificate", "tls_key", "tls_client_ca", "credentials", "jwt_keys")
    paths = {name: tmp_path / name for name in names}
    for path in paths.values():
        path.touch()
    return paths


OPEN: dict[str, Any] = {"listen": "0.0.0.0:50051"}
TLS = ("tls_certificate", "tls_key")
RULES: dict[str, Any] = {"jwt_issuer": "i", "jwt_audience": "a"}


@pytest.mark.parametrize(
    "names", [(), TLS, ("credentials",), ("jwt_keys",), (*TLS, "tls_client_ca")], ids=str
)
def test_settings_public_address_needs_tls_and_authentication(
    paths: dict[str, Path], names: tuple[str, ...]
) -> None:
    given: dict[str, Any] = {name: str(paths[name]) for name in names} | RULES

    with pytest.raises(ValidationError, match="--insecure"):
        read(**OPEN, **given)

    assert read(**OPEN, **given, insecure=True).insecure
    assert read(**given).listen == "127.0.0.1:50051"


@pytest.mark.parametrize("kind", ["credentials", "jwt_keys"])
def test_settings_public_address_with_tls_and_authentication_is_accepted(
    paths: dict[str, Path], kind: str
) -> None:
    given: dict[str, Any] = {name: str(paths[name]) for name in (*TLS, kind)} | RULES

    assert not read(**OPEN, **given).insecure


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        (("tls_certificate",), "--tls-key"),
        (("tls_key",), "--tls-certificate"),
        (("tls_client_ca",), "--tls-certificate"),
        (("jwt_keys",), "--jwt-issuer"),
    ],
)
def test_settings_that_need_others_are_refused_without_them(
    paths: dict[str, Path], names: tuple[str, ...], missing: str
) -> None:
    given: dict[str, Any] = {name: str(paths[name]) for name in names}

    with pytest.raises(ValidationError, match=missing):
        read(**given)


@pytest.mark.parametrize("url", ["https://keys.example/jwks", "http://127.0.0.1:1/jwks"])
def test_settings_key_urls_must_be_tamper_proof(url: str) -> None:
    assert read(jwt_keys=url, **RULES).jwt_keys == url


ENDPOINT: dict[str, Any] = {
    "embedder": "openai",
    "embedder_url": "https://api.example/v1",
    "embedder_model": "small",
    "embedder_dimensions": 256,
}


@pytest.mark.parametrize("name", ["embedder_url", "embedder_model", "embedder_dimensions"])
def test_settings_of_endpoint_are_complete_or_absent(name: str) -> None:
    assert read(**ENDPOINT).embedder_dimensions == 256
    flag = "--" + name.replace("_", "-")

    with pytest.raises(
        ValidationError, match=rf"--embedder \(PALAVER_EMBEDDER\) openai needs {flag} "
    ):
        read(**{key: value for key, value in ENDPOINT.items() if key != name})
    for other in ("auto", "none"):
        with pytest.raises(ValidationError, match=f"{flag} .*: only for --embedder "):
            read(embedder=other, **{name: ENDPOINT[name]})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("embedder", "magic"),
        ("embedder_url", "api.example"),
        ("embedder_url", "ftp://api.example"),
        ("embedder_model", ""),
        ("embedder_key", "clé"),
        ("embedder_dimensions", "0"),
        ("embedder_dimensions", "4001"),
        ("embedder_timeout_seconds", "0"),
    ],
)
def test_settings_invalid_embedder_value_is_named(name: str, value: str) -> None:
    with pytest.raises(ValidationError) as raised:
        read(**{**ENDPOINT, name: value})

    assert [error["loc"] for error in raised.value.errors()] == [(name,)]


def test_settings_embedder_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("palaver_server.config.find_spec", lambda _: None)

    with pytest.raises(ValidationError, match="must be installed: pip install"):
        read(embedder="wordllama")
    assert read().embedder == "auto"


def test_settings_embedder_key_is_hidden() -> None:
    settings = read(**ENDPOINT, embedder_key="Sesame")

    assert "Sesame" not in repr(settings)
    assert "Sesame" not in str(settings.model_dump())


@pytest.mark.parametrize("language", ["-", "0", "13043", ""])
def test_search_language_that_postgres_takes_for_an_id_is_refused(language: str) -> None:
    with pytest.raises(ValidationError) as raised:
        read(search_language=language)

    assert [error["loc"] for error in raised.value.errors()] == [("search_language",)]
    assert read(search_language="pg_catalog.german").search_language == "pg_catalog.german"
