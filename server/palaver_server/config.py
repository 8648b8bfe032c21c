"""The settings: from flags and from `PALAVER_*` variables, flags first."""

from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal, Self

import platformdirs
from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict
from pydantic import (
    AfterValidator,
    AnyHttpUrl,
    Field,
    FilePath,
    NonNegativeInt,
    PositiveInt,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from palaver_server.addresses import check_address, check_port_address, is_local, is_unix


def _check_database_url(value: SecretStr) -> SecretStr:
    # Without the driver's words: they quote pieces of the URL, and so maybe the password.
    try:
        parts = conninfo_to_dict(value.get_secret_value())
    except ProgrammingError:
        raise ValueError("must be a PostgreSQL URL, such as postgresql://host/name") from None
    if "@" in f"{parts.get('host')}{parts.get('dbname')}" or not _is_port(parts.get("port", "")):
        raise ValueError("must have the special characters of its password percent-encoded")
    return value


def _is_port(value: object) -> bool:
    return all(port == "" or port.isdecimal() for port in str(value).split(","))


def _check_jwt_keys(value: str) -> str:
    if "://" not in value:
        if not Path(value).is_file():
            raise ValueError("must be a file that exists, or an https URL")
        return value
    try:
        url = AnyHttpUrl(value)
    except ValidationError:
        raise ValueError("must be a file that exists, or an https URL") from None
    # Whoever can change the keys on their way can sign tokens.
    if url.scheme != "https" and not is_local(f"{url.host}:{url.port}"):
        raise ValueError("must be an https URL, unless it is on this machine")
    return value


def _check_embedder(value: str) -> str:
    if value == "wordllama" and find_spec("wordllama") is None:
        raise ValueError("is not installed: pip install wordllama")
    return value


def _check_embedder_url(value: str) -> str:
    try:
        AnyHttpUrl(value)
    except ValidationError:
        raise ValueError("must be a URL, such as https://api.openai.com/v1") from None
    return value


def _check_embedder_key(value: SecretStr) -> SecretStr:
    key = value.get_secret_value()
    if not (key.isascii() and key.isprintable()):
        raise ValueError("must be printable ASCII")
    return value


_LONGEST_SECONDS = 100 * 365 * 24 * 3600
Seconds = Annotated[float, Field(ge=0, le=_LONGEST_SECONDS)]
PositiveSeconds = Annotated[float, Field(gt=0, le=_LONGEST_SECONDS)]


class DatabaseSettings(BaseSettings):
    """The settings of every command that works on a database.

    Each is the variable `PALAVER_<NAME>` and the flag `--<name>`.
    """

    model_config = SettingsConfigDict(env_prefix="PALAVER_", env_ignore_empty=True)

    database_url: Annotated[SecretStr, AfterValidator(_check_database_url)] | None = Field(
        None, description="URL of the PostgreSQL to use; without it, an embedded one."
    )
    data_dir: Path = Field(
        platformdirs.user_data_path("palaver"), description="Where the embedded PostgreSQL lives."
    )
    embedder: Annotated[
        Literal["auto", "none", "wordllama", "openai"], AfterValidator(_check_embedder)
    ] = Field(
        "auto",
        description="What makes vectors for semantic search; auto is wordllama if installed.",
    )
    embedder_url: Annotated[str, AfterValidator(_check_embedder_url)] | None = Field(
        None, description="For openai: URL of the endpoint without `/embeddings`."
    )
    embedder_model: str | None = Field(
        None, min_length=1, max_length=256, description="For openai: name of the model."
    )
    embedder_dimensions: int | None = Field(
        None, ge=1, le=4000, description="For openai: numbers kept of each vector."
    )
    embedder_key: Annotated[SecretStr, AfterValidator(_check_embedder_key)] | None = Field(
        None, description="For openai: the API key, if it asks for one."
    )
    embedder_timeout_seconds: PositiveSeconds = Field(
        30, description="For openai: how long it may take to answer."
    )
    log_level: str = Field(
        "INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="The least level logged."
    )
    log_format: str = Field(
        "auto",
        pattern="^(auto|text|json)$",
        description="How log lines look: text, json, or auto: text on a terminal, JSON elsewhere.",
    )

    @model_validator(mode="after")
    def _fit_the_embedder(self) -> Self:
        endpoint = (self.embedder_url, self.embedder_model, self.embedder_dimensions)
        names = "--embedder-url, --embedder-model and --embedder-dimensions"
        if self.embedder == "openai" and None in endpoint:
            raise ValueError(f"--embedder openai needs {names}")
        if self.embedder != "openai" and any((*endpoint, self.embedder_key)):
            raise ValueError(f"{names} and --embedder-key need --embedder openai")
        return self


class Settings(DatabaseSettings):
    """The settings of a server."""

    listen: Annotated[str, AfterValidator(check_address)] = Field(
        "127.0.0.1:50051",
        description="Address to serve on, HOST:PORT or unix:PATH; port 0 takes a free one.",
    )
    workers: PositiveInt = Field(
        1, description="Processes that share the port; one keeps a core busy."
    )
    tls_certificate: FilePath | None = Field(
        None, description="PEM file with the server's certificate and those below its root."
    )
    tls_key: FilePath | None = Field(
        None, description="PEM file with the private key of the certificate."
    )
    tls_client_ca: FilePath | None = Field(
        None, description="PEM file with the authorities that clients need a certificate of."
    )
    credentials: FilePath | None = Field(
        None, description="TOML file with the API keys and client certificates that are known."
    )
    jwt_keys: Annotated[str, AfterValidator(_check_jwt_keys)] | None = Field(
        None, description="JWKS file, or its URL, with the keys that tokens are signed with."
    )
    jwt_issuer: str = Field("", description="Who must have issued a token.")
    jwt_audience: str = Field("", description="For whom a token must be issued.")
    jwt_leeway_seconds: float = Field(
        10, ge=0, le=300, description="By how much the clock of a token's issuer may differ."
    )
    jwt_role_claim: str = Field("role", description="The claim of a token that has its role.")
    jwt_user_id_claim: str | None = Field(
        None, description="The claim of a token that has the one user it is for."
    )
    insecure: bool = Field(
        default=False,
        description="Serve beyond this machine without TLS or without authentication.",
    )
    reflection: bool = Field(
        default=True, description="Describe the services to those who ask, such as grpcurl."
    )
    pool_min_size: PositiveInt = Field(2, description="Database connections kept open.")
    pool_max_size: PositiveInt = Field(10, description="Database connections open at the most.")
    pool_timeout_seconds: PositiveSeconds = Field(
        5, description="How long a call waits for a database connection."
    )
    statement_timeout_seconds: PositiveSeconds = Field(
        60, description="How long one SQL statement may take."
    )
    default_deadline_seconds: PositiveSeconds = Field(
        30, description="How long a call without a deadline may take; streams have none."
    )
    max_running_calls: PositiveInt = Field(256, description="Calls at work at the most.")
    max_waiting_calls: NonNegativeInt = Field(
        256, description="Calls that wait for others to finish; more are refused."
    )
    max_streams: PositiveInt = Field(256, description="Streams open at the most.")
    reader_patience_seconds: PositiveSeconds = Field(
        300, description="How long a chunk of a stream waits for its reader."
    )
    max_connections: PositiveInt = Field(
        10_000, description="Connections of clients open at the most; more are closed."
    )
    keepalive_seconds: PositiveSeconds = Field(
        60, description="How often a silent client is asked whether it is there."
    )
    connection_idle_seconds: PositiveSeconds = Field(
        1800, description="How long a connection without calls stays open."
    )
    connection_age_seconds: PositiveSeconds = Field(
        3600, description="How long a connection takes new calls, before clients make another."
    )
    connection_grace_seconds: PositiveSeconds = Field(
        600, description="How long the calls of a connection may last beyond that."
    )
    memory_window: int = Field(
        100, ge=1, le=1000, description="Messages that GetMemory returns if not told how many."
    )
    search_language: str = Field(
        "english",
        min_length=1,
        description="PostgreSQL's text search configuration that makes words of contents.",
    )
    search_timeout_seconds: PositiveSeconds = Field(
        5, description="How long the database may take for a search."
    )
    purge_interval_seconds: Seconds = Field(
        3600, description="How often deleted rows are purged; 0 is never."
    )
    purge_retention_seconds: Seconds = Field(
        0, description="How long deleted rows are kept before they are purged."
    )
    purge_batch_size: PositiveInt = Field(1000, description="Rows purged in one transaction.")
    health_interval_seconds: PositiveSeconds = Field(
        1, description="How often the database is checked for the health service."
    )
    shutdown_drain_seconds: Seconds = Field(
        5, description="How long calls are taken at shutdown, while more of them come."
    )
    shutdown_grace_seconds: Seconds = Field(
        10, description="How long running calls may take to finish at shutdown."
    )
    metrics_listen: Annotated[str, AfterValidator(check_port_address)] | None = Field(
        None, description="Address to serve Prometheus metrics on; without it, there are none."
    )

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise ValueError("--tls-certificate and --tls-key need each other")
        if self.tls_client_ca and not self.tls_key:
            raise ValueError("--tls-client-ca needs --tls-certificate and --tls-key")
        if self.jwt_keys and not (self.jwt_issuer and self.jwt_audience):
            raise ValueError("--jwt-keys needs --jwt-issuer and --jwt-audience")
        if self.workers > 1 and is_unix(self.listen):
            raise ValueError("--workers share a port, and a Unix socket has none")
        if not (self.insecure or is_local(self.listen) or self._is_guarded):
            raise ValueError(
                f"--listen {self.listen} lets other machines in: give --tls-certificate and"
                " --tls-key, and --credentials or --jwt-keys; or serve whoever comes, by --insecure"
            )
        return self

    @property
    def _is_guarded(self) -> bool:
        return bool(self.tls_key and (self.credentials or self.jwt_keys))

    @property
    def purge_interval(self) -> timedelta:
        """The time between purges; zero is never."""
        return timedelta(seconds=self.purge_interval_seconds)

    @property
    def purge_retention(self) -> timedelta:
        """How long deleted rows are kept."""
        return timedelta(seconds=self.purge_retention_seconds)
