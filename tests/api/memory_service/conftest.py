"""Fixtures of the tests of MemoryService."""

import pytest

from palaver.v1.memory_pb2 import Message
from tests.support.client import Client, struct


@pytest.fixture
def message(palaver: Client) -> Message:
    """The message `m` between the messages `before` and `after` of the session `s`."""
    given = Message(
        message_id="m",
        role="user",
        content="hello",
        token_count=5,
        metadata=struct(a=1, deep={"x": 1, "y": 2}),
    )
    palaver.add_memory("s", [Message(message_id="before", role="user"), given])
    palaver.add_memory("s", [Message(message_id="after", role="user")])
    return palaver.get_message("s", "m")
