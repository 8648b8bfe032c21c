"""The limit of the process's file descriptors: each connection needs one."""

import resource
import sys
from contextlib import suppress


def raise_limit() -> int:
    """Raise the soft limit to the hard limit, as far as the system allows, and return it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS has a lower maximum than its hard limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft
