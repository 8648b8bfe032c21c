"""Error messages of the commands."""

from collections.abc import Iterator
from contextlib import contextmanager

import click

from palaver_server.errors import PalaverError


@contextmanager
def reported_errors() -> Iterator[None]:
    """End the command with a message instead of a traceback when an expected error occurs."""
    try:
        yield
    except (PalaverError, RuntimeError) as error:
        raise click.ClickException(str(error)) from error
