"""The settings: from flags and from `PALAVER_*` variables, flags first."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated

import platformdirs
from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict
from pydantic import AfterValidator, Field, NonNegativeInt, PositiveInt, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


def _check_address(value: str) -> str:
    host, _, port = value.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError("must be HOST:PORT, such as 127.0.0.1:50051 or [::1]:50051")
    return value


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


_LONGEST_SECONDS = 100 * 365 * 24 * 3600
Seconds = Annotated[float, Field(ge=0, le=_LONGEST_SECONDS)]
PositiveSeconds = Annotated[float, Field(gt=0, le=_LONGEST_SECONDS)]


class Settings(BaseSettings):
    """The settings of a server. Each is the variable `PALAVER_<NAME>` and the flag `--<name>`."""

    model_config = SettingsConfigDict(env_prefix="PALAVER_", env_ignore_empty=True)

    listen: Annotated[str, AfterValidator(_check_address)] = Field(
        "127.0.0.1:50051", description="Address to serve on; port 0 takes a free one."
    )
    database_url: Annotated[SecretStr, AfterValidator(_check_database_url)] | None = Field(
        None, description="URL of the PostgreSQL to use; without it, an embedded one."
    )
    data_dir: Path = Field(
        platformdirs.user_data_path("palaver"), description="Where the embedded PostgreSQL lives."
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
    log_level: str = Field(
        "INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="The least level logged."
    )

    @property
    def purge_interval(self) -> timedelta:
        """The time between purges; zero is never."""
        return timedelta(seconds=self.purge_interval_seconds)

    @property
    def purge_retention(self) -> timedelta:
        """How long deleted rows are kept."""
        return timedelta(seconds=self.purge_retention_seconds)
