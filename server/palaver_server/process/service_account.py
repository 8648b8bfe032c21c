"""The user that PostgreSQL runs as where Palaver runs as root, as which PostgreSQL refuses to run.

Modes of directories outside the data directory stay as they are: a directory that this user cannot
enter, such as /root, is not used.
"""

import fcntl
import logging
import os
import pwd
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

from palaver_server.errors import EmbeddedPostgresError

_LOGGER = logging.getLogger(__name__)

_NAME = "palaver"

# Where the data is if root configures no directory, and its home is closed to others.
ROOT_DATA_DIR = Path("/var/lib/palaver")


class ServiceAccount:
    """The user that runs PostgreSQL: this process's own, or `palaver` instead of root."""

    def __init__(self) -> None:
        self._user = _user_instead_of_root() if os.geteuid() == 0 else None

    @property
    def popen_arguments(self) -> dict[str, Any]:
        """Arguments of `subprocess.Popen` that start a process as this user."""
        if self._user is None:
            return {}
        return {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}

    def own(self, path: Path) -> None:
        """Make this user the owner of a file or directory."""
        if self._user:
            os.chown(path, self._user.pw_uid, self._user.pw_gid)

    def can_pass(self, path: Path) -> bool:
        """Return whether this user can enter a directory, or execute a file.

        For a path that does not exist, its nearest existing parent counts.
        """
        if self._user is None:
            return True
        while not path.exists():
            path = path.parent
        test = subprocess.run(
            ["/bin/sh", "-c", 'test -x "$1"', "sh", path],
            cwd="/",
            check=False,
            **self.popen_arguments,
        )
        return test.returncode == 0

    def make_passable(self, data_dir: Path) -> None:
        """Let this user pass through its data directory, which belongs to root.

        Raises:
            EmbeddedPostgresError: The user cannot enter a directory above.
        """
        for directory in reversed(data_dir.parents):
            if not self.can_pass(directory):
                raise EmbeddedPostgresError(
                    f"PostgreSQL does not run as root, and the user {_NAME!r} that runs it instead"
                    f" cannot enter {directory}: set --data-dir (PALAVER_DATA_DIR) to another"
                    f" directory, such as {ROOT_DATA_DIR}, or start Palaver as another user"
                )
        if not self.can_pass(data_dir):
            data_dir.chmod(data_dir.stat().st_mode | 0o001)


def default_data_dir(preferred: Path) -> Path:
    """Return the data directory where none is configured.

    Args:
        preferred: The one that platform conventions suggest.
    """
    if (preferred / "postgres").exists() or ServiceAccount().can_pass(preferred.parent):
        return preferred
    _LOGGER.info("%s is closed to the user %r that runs PostgreSQL", preferred.parent, _NAME)
    return ROOT_DATA_DIR


def _user_instead_of_root() -> pwd.struct_passwd:
    with suppress(KeyError):
        return pwd.getpwnam(_NAME)
    try:
        # useradd looks for the name before it locks: of two at a time both succeed, and the user
        # id of one is replaced by that of the other.
        with Path("/etc/passwd").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return _existing_or_new_user()
    except (OSError, subprocess.CalledProcessError, KeyError) as error:
        raise EmbeddedPostgresError(
            f"PostgreSQL does not run as root, and creating the user {_NAME!r} to run it failed:"
            f" create that user, or start Palaver as another one ({error})"
        ) from error


def _existing_or_new_user() -> pwd.struct_passwd:
    with suppress(KeyError):
        return pwd.getpwnam(_NAME)
    _LOGGER.info("creating the system user %r to run PostgreSQL", _NAME)
    useradd = ("/usr/sbin/useradd", "--system", "--no-create-home", "--shell=/usr/sbin/nologin")
    subprocess.run([*useradd, _NAME], check=True, capture_output=True)
    return pwd.getpwnam(_NAME)
