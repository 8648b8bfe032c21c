"""The settings of a server, read from flags and from `PALAVER_*` variables.

A flag takes precedence over its variable.
"""

import os
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
    BeforeValidator,
    Field,
    FilePath,
    NonNegativeInt,
    PositiveInt,
    SecretStr,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from palaver_server.addresses import check_address, check_port_address, is_local, is_unix

# Old names of settings by their new ones. Flags and variables of these names are deprecated: they
# are hidden, still work in this release, and go away in the next one. A new name takes precedence.
OLD_NAMES = {"stream_send_timeout_seconds": "reader_patience_seconds"}


# Settings that have no flag: other users of the machine can read command lines.
NO_FLAG = frozenset({"embedder_key"})


def flag(name: str) -> str:
    """Return the flag of a setting."""
    return "--" + name.replace("_", "-")


def variable(name: str) -> str:
    """Return the environment variable of a setting."""
    return "PALAVER_" + name.upper()


def spelled(*names: str) -> str:
    """Return the flags and variables of settings, for messages."""
    return ", ".join(
        variable(name) if name in NO_FLAG else f"{flag(name)} ({variable(name)})" for name in names
    )


def read_secret_file(value: object) -> str:
    """Return the text of a file that holds a secret, without newlines at its end.

    Raises:
        ValueError: The file cannot be read or is empty. The text does not quote the path: somebody
            may have given the secret in its place.
    """
    if not value:
        raise ValueError("must be a readable file; got an empty value")
    try:
        secret = Path(str(value)).read_text("utf-8").rstrip("\r\n")
    except UnicodeError:
        raise ValueError("must be a file of UTF-8 text") from None
    except OSError as error:
        raise ValueError(f"must be a readable file: {error.strerror}") from None
    if not secret:
        raise ValueError("must be a file that holds a secret; it is empty")
    return secret


def _check_database_url(value: SecretStr) -> SecretStr:
    # An empty variable often is a secret that failed to expand. An operator who wants the embedded
    # PostgreSQL leaves the variable unset.
    if not value.get_secret_value().strip():
        raise ValueError("must not be empty; unset it to run an embedded PostgreSQL")
    # The driver's message is left out: it quotes parts of the URL, possibly the password.
    try:
        parts = conninfo_to_dict(value.get_secret_value())
    except ProgrammingError:
        raise ValueError("must be a PostgreSQL URL, such as postgresql://host/name") from None
    if "@" in f"{parts.get('host')}{parts.get('dbname')}" or not _is_port(parts.get("port", "")):
        raise ValueError("must percent-encode the special characters of its password")
    return value


def _is_port(value: object) -> bool:
    return all(port == "" or port.isdecimal() for port in str(value).split(","))


_JWT_KEYS = "must be an existing file or an https URL"


def _check_jwt_keys(value: str) -> str:
    if "://" not in value:
        if not Path(value).is_file():
            raise ValueError(_JWT_KEYS)
        return value
    try:
        url = AnyHttpUrl(value)
    except ValidationError:
        raise ValueError(_JWT_KEYS) from None
    # An attacker who replaces the keys in transit can sign tokens.
    if url.scheme != "https" and not is_local(f"{url.host}:{url.port}"):
        raise ValueError("must be an https URL, or an http URL on this machine")
    return value


def _check_embedder(value: str) -> str:
    if value == "wordllama" and find_spec("wordllama") is None:
        raise ValueError("must be installed: pip install 'palaver-server[wordllama]'")
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


DatabaseUrl = Annotated[SecretStr, AfterValidator(_check_database_url)]
EmbedderKey = Annotated[SecretStr, AfterValidator(_check_embedder_key)]

# Turns the type of a secret into that of a file that holds it: the value is the file's content.
_InFile = (
    BeforeValidator(read_secret_file),
    WithJsonSchema({"type": "string", "format": "file-path", "writeOnly": True}),
)


def _check_search_language(value: str) -> str:
    # regconfig's input takes digits for the id of a configuration, and "-" for none.
    if value == "-" or (value.isascii() and value.isdecimal()):
        raise ValueError("must be the name of a text search configuration, such as english")
    return value


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


_MAX_SECONDS = 100 * 365 * 24 * 3600
Seconds = Annotated[float, Field(ge=0, le=_MAX_SECONDS)]
PositiveSeconds = Annotated[float, Field(gt=0, le=_MAX_SECONDS)]
LogLevel = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(_upper)]
PreparedStatements = Annotated[Literal["auto", "on", "off"], BeforeValidator(_lower)]
LogFormat = Annotated[Literal["auto", "text", "json"], BeforeValidator(_lower)]


# Settings that a file may hold: each has a second setting that ends in `_file`.
_SECRETS = ("database_url", "migration_database_url", "read_database_url", "embedder_key")

_NEVER_EMPTY = ("database_url", "database_url_file")


class DatabaseSettings(BaseSettings):
    """Settings of the commands that use a database.

    Each setting is the flag `--<name>`, unless it is in NO_FLAG, and the variable `PALAVER_<NAME>`.
    """

    model_config = SettingsConfigDict(env_prefix="PALAVER_", env_ignore_empty=True)

    database_url: DatabaseUrl | None = Field(
        None, description="URL of the PostgreSQL database; if unset, an embedded PostgreSQL runs."
    )
    database_url_file: Annotated[DatabaseUrl, *_InFile] | None = Field(
        None, description="File that holds the URL of the database, instead of the URL itself."
    )
    migration_database_url: DatabaseUrl | None = Field(
        None,
        description="URL for migrations, such as that of the schema's owner or one past a pooler;"
        " if unset, the URL of the database.",
    )
    migration_database_url_file: Annotated[DatabaseUrl, *_InFile] | None = Field(
        None, description="File that holds the URL for migrations, instead of the URL itself."
    )
    database_wait_seconds: Seconds = Field(
        30,
        description="Maximum wait at the start for a database that is away, and for another"
        " server's migration.",
    )
    prepared_statements: PreparedStatements = Field(
        "auto",
        description="Whether statements are prepared; auto does where no pooler stands before the"
        " database.",
    )
    data_dir: Path = Field(
        platformdirs.user_data_path("palaver"),
        description="Directory of the embedded PostgreSQL's data.",
    )
    embedder: Annotated[
        Literal["auto", "none", "wordllama", "openai"], AfterValidator(_check_embedder)
    ] = Field(
        "auto",
        description="Embedder for semantic search; auto uses wordllama if it is installed.",
    )
    embedder_url: Annotated[str, AfterValidator(_check_embedder_url)] | None = Field(
        None, description="For openai: URL of the endpoint, without `/embeddings`."
    )
    embedder_model: str | None = Field(
        None, min_length=1, max_length=256, description="For openai: name of the model."
    )
    embedder_dimensions: int | None = Field(
        None, ge=1, le=4000, description="For openai: number of dimensions kept of each vector."
    )
    embedder_key: EmbedderKey | None = Field(
        None, description="For openai: API key, if the endpoint requires one."
    )
    embedder_key_file: Annotated[EmbedderKey, *_InFile] | None = Field(
        None,
        description="For openai: file that holds the API key, instead of PALAVER_EMBEDDER_KEY.",
    )
    embedder_timeout_seconds: PositiveSeconds = Field(
        30, description="For openai: timeout of a request, up to the end of the answer."
    )
    embedder_query_timeout_seconds: PositiveSeconds = Field(
        1,
        description="Maximum wait of a search for the embedder; after it, keyword search answers"
        " unless the mode is SEMANTIC.",
    )
    log_level: LogLevel = Field("INFO", description="Lowest level that is logged.")
    log_format: LogFormat = Field(
        "auto", description="Format of the log; auto is text on a terminal and json elsewhere."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read flags first, then variables, then variables under their old names.

        Empty variables count as unset, except those of the database: an empty one must not lead to
        an embedded PostgreSQL without data.
        """
        old = {
            name: value
            for name, old_name in OLD_NAMES.items()
            if name in settings_cls.model_fields and (value := os.environ.get(variable(old_name)))
        }
        empty = {name: "" for name in _NEVER_EMPTY if os.environ.get(variable(name)) == ""}
        others = InitSettingsSource(settings_cls, init_kwargs={**old, **empty})
        return init_settings, env_settings, others

    @model_validator(mode="after")
    def _take_secrets_from_files(self) -> Self:
        for name in type(self).model_fields.keys() & set(_SECRETS):
            in_file = getattr(self, f"{name}_file")
            if in_file and getattr(self, name):
                raise ValueError(f"{spelled(name, f'{name}_file')}: only one may be given")
            if in_file:
                setattr(self, name, in_file)
                setattr(self, f"{name}_file", None)
        return self

    @model_validator(mode="after")
    def _check_migration_url(self) -> Self:
        if self.migration_database_url and not self.database_url:
            raise ValueError(f"{spelled('migration_database_url')} needs {spelled('database_url')}")
        return self

    @model_validator(mode="after")
    def _check_embedder_settings(self) -> Self:
        required = ("embedder_url", "embedder_model", "embedder_dimensions")
        missing = [name for name in required if getattr(self, name) is None]
        if self.embedder == "openai" and missing:
            raise ValueError(f"{spelled('embedder')} openai needs {spelled(*missing)}")
        given = [name for name in (*required, "embedder_key") if getattr(self, name) is not None]
        if self.embedder != "openai" and given:
            raise ValueError(
                f"{spelled(*given)}: only for {spelled('embedder')} openai; got {self.embedder}"
            )
        return self


class Settings(DatabaseSettings):
    """Settings of a server."""

    no_migrate: bool = Field(
        default=False,
        description="Run no migrations at the start; refuse a database that lacks any.",
    )
    read_only: bool = Field(
        default=False,
        description="Refuse calls that write, and change nothing in the database;"
        " for a hot standby.",
    )
    read_database_url: DatabaseUrl | None = Field(
        None,
        description="URL of a hot standby, which runs reads where it is fresh enough;"
        " if unset, the database runs all.",
    )
    read_database_url_file: Annotated[DatabaseUrl, *_InFile] | None = Field(
        None, description="File that holds the URL of the standby, instead of the URL itself."
    )
    read_max_staleness_seconds: Seconds = Field(
        0,
        description="Time before a read whose writes it may miss on the standby; 0: it sees every"
        " write acknowledged before.",
    )
    listen: Annotated[str, AfterValidator(check_address)] = Field(
        "127.0.0.1:50051",
        description="Address to listen on, HOST:PORT or unix:PATH; port 0 picks a free port.",
    )
    workers: PositiveInt = Field(
        1, description="Number of server processes on the port; each uses up to one core."
    )
    tls_certificate: FilePath | None = Field(
        None, description="PEM file with the server's certificate and its intermediates."
    )
    tls_key: FilePath | None = Field(
        None, description="PEM file with the private key of the certificate."
    )
    tls_client_ca: FilePath | None = Field(
        None,
        description="PEM file with the authorities for client certificates;"
        " clients must then present one.",
    )
    credentials: FilePath | None = Field(
        None, description="TOML file with the accepted API keys and client certificates."
    )
    credentials_grace_seconds: PositiveSeconds = Field(
        3600,
        description="Time for which the last valid credentials and JWT keys stay in use while their"
        " file or URL is unreadable or invalid; then all are refused.",
    )
    jwt_keys: Annotated[str, AfterValidator(_check_jwt_keys)] | None = Field(
        None, description="JWKS file or URL with the keys that verify tokens."
    )
    jwt_issuer: str = Field("", description="Required issuer (`iss`) of tokens.")
    jwt_audience: str = Field("", description="Required audience (`aud`) of tokens.")
    jwt_leeway_seconds: float = Field(
        10, ge=0, le=300, description="Tolerated clock difference to the issuer of tokens."
    )
    jwt_role_claim: str = Field("role", description="Claim with the role of a token.")
    jwt_user_id_claim: str | None = Field(
        None, description="Claim with the user that a token is restricted to."
    )
    insecure: bool = Field(
        default=False,
        description="Serve other machines even without TLS or without authentication.",
    )
    reflection: bool = Field(
        default=True, description="Serve gRPC reflection, for tools such as grpcurl."
    )
    pool_min_size: PositiveInt = Field(2, description="Minimum open database connections.")
    pool_max_size: PositiveInt = Field(10, description="Maximum open database connections.")
    pool_timeout_seconds: PositiveSeconds = Field(
        5, description="Maximum wait of a call for a database connection."
    )
    statement_timeout_seconds: PositiveSeconds = Field(
        60, description="Timeout of an SQL statement."
    )
    default_deadline_seconds: PositiveSeconds = Field(
        30, description="Deadline of unary calls that set none; streams have none."
    )
    max_running_calls: PositiveInt = Field(
        256, description="Maximum concurrent calls; up to half of them for one credential."
    )
    max_waiting_calls: NonNegativeInt = Field(
        4096,
        description="Maximum calls waiting for a slot; further calls are refused.",
    )
    max_streams: PositiveInt = Field(
        256, description="Maximum open streams; up to half of them for one credential."
    )
    max_request_bytes_in_flight: int | None = Field(
        None,
        ge=64 * 1024 * 1024,
        description="Maximum bytes of memory for requests that are being read or handled, half of"
        " them for one credential; if unset, a quarter of the memory, but at most 256 MiB.",
    )
    max_response_bytes_in_flight: int | None = Field(
        None,
        ge=16 * 1024 * 1024,
        description="Maximum bytes of responses that are being made or wait for their clients, up"
        " to half of them for one credential; if unset, a fifth of the memory, but at most"
        " 256 MiB.",
    )
    stream_send_timeout_seconds: PositiveSeconds = Field(
        300, description="Maximum wait for a slow client to accept a response."
    )
    max_connections: PositiveInt = Field(
        10_000,
        description="Maximum open client connections, as far as the limit of open files allows;"
        " further ones are closed.",
    )
    keepalive_seconds: PositiveSeconds = Field(
        60, description="Silence after which a client is pinged."
    )
    connection_idle_seconds: Seconds = Field(
        0,
        description="Time without calls after which a connection is closed, even if a call begins"
        " at that moment; 0: never.",
    )
    connection_age_seconds: PositiveSeconds = Field(
        3600, description="Age at which a connection takes no new calls and clients reconnect."
    )
    connection_grace_seconds: PositiveSeconds = Field(
        600, description="Time that running calls have on a connection of that age."
    )
    max_metadata_bytes: int = Field(
        64 * 1024,
        ge=64 * 1024,
        le=1024 * 1024,
        description="Maximum bytes of the metadata of a session or a user as JSON; encoded, it has"
        " at most 2 MiB.",
    )
    memory_window: int = Field(
        100,
        ge=1,
        le=1000,
        description="Messages that GetMemory returns if the call sets no limit.",
    )
    search_language: Annotated[str, AfterValidator(_check_search_language)] = Field(
        "english",
        min_length=1,
        description="PostgreSQL text search configuration for keyword search.",
    )
    filter_timeout_seconds: PositiveSeconds = Field(
        10,
        description="Timeout of an SQL statement that lists rows by `filter.metadata`.",
    )
    search_timeout_seconds: PositiveSeconds = Field(
        5, description="Timeout of a search's SQL statement."
    )
    purge_interval_seconds: Seconds = Field(
        3600, description="Interval between purges of deleted rows; 0 turns them off."
    )
    purge_retention_seconds: Seconds = Field(
        0, description="Minimum age of a deletion before a purge removes the row."
    )
    session_retention_seconds: Seconds = Field(
        0,
        description="Time since the last change of a session or its messages after which a purge"
        " deletes the session; 0 keeps all.",
    )
    purge_batch_size: PositiveInt = Field(
        1000, description="Rows that a purge removes per transaction."
    )
    health_interval_seconds: PositiveSeconds = Field(
        1, description="Interval between database checks of the health service."
    )
    shutdown_drain_seconds: Seconds = Field(
        5, description="Maximum time at shutdown in which new calls are still accepted."
    )
    shutdown_grace_seconds: Seconds = Field(
        10, description="Time that running calls have to finish at shutdown."
    )
    metrics_listen: Annotated[str, AfterValidator(check_port_address)] | None = Field(
        None, description="Address for Prometheus metrics, HOST:PORT; if unset, none are served."
    )

    @model_validator(mode="after")
    def _check_read_settings(self) -> Self:
        if self.read_database_url and not self.database_url:
            raise ValueError(f"{spelled('read_database_url')} needs {spelled('database_url')}")
        if self.read_only and not self.database_url:
            raise ValueError(f"{spelled('read_only')} needs {spelled('database_url')}")
        if self.read_only and self.read_database_url:
            raise ValueError(f"{spelled('read_only', 'read_database_url')}: only one may be given")
        if self.read_max_staleness_seconds and not self.read_database_url:
            raise ValueError(
                f"{spelled('read_max_staleness_seconds')} needs {spelled('read_database_url')}"
            )
        return self

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise ValueError(f"{spelled('tls_certificate', 'tls_key')}: one needs the other")
        if self.tls_client_ca and not self.tls_key:
            raise ValueError(
                f"{spelled('tls_client_ca')} needs {spelled('tls_certificate', 'tls_key')}"
            )
        if self.jwt_keys and not (self.jwt_issuer and self.jwt_audience):
            raise ValueError(f"{spelled('jwt_keys')} needs {spelled('jwt_issuer', 'jwt_audience')}")
        if self.workers > 1 and is_unix(self.listen):
            raise ValueError(
                f"{spelled('listen')}: must have a port if {spelled('workers')} is above 1;"
                f" got {self.listen}"
            )
        if not (self.insecure or is_local(self.listen) or self._has_access_control):
            raise ValueError(
                f"{flag('listen')} {self.listen} ({variable('listen')}) is reachable from other"
                " machines: set"
                f" {spelled('tls_certificate', 'tls_key')} and {spelled('credentials')} or"
                f" {spelled('jwt_keys')}; or serve everyone with {spelled('insecure')}"
            )
        return self

    @property
    def _has_access_control(self) -> bool:
        return bool(self.tls_key and (self.credentials or self.jwt_keys))

    @property
    def purge_interval(self) -> timedelta:
        """Interval between purges; zero for none."""
        return timedelta(seconds=self.purge_interval_seconds)

    @property
    def purge_retention(self) -> timedelta:
        """Minimum age of a deletion before a purge removes the row."""
        return timedelta(seconds=self.purge_retention_seconds)

    @property
    def session_retention(self) -> timedelta | None:
        """Time since a session's last change after which a purge deletes it; None: keep all."""
        seconds = self.session_retention_seconds
        return timedelta(seconds=seconds) if seconds else None
