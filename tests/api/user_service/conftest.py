"""Fixtures of the tests of UserService."""

import pytest

from tests.support.client import Client


@pytest.fixture
def five(palaver: Client) -> Client:
    """A client of a server with the users e, a, d, b and c, of whom b is a placeholder."""
    for user_id in "ead":
        palaver.add_user(user_id)
    palaver.add_session("s", user_id="b")
    palaver.add_user("c")
    return palaver
