"""MemoryService.GetMessage: one message by its id."""

import grpc

from palaver.v1.memory_pb2 import Message
from tests.support.client import Client, refused

# --- Contract ----------------------------------------------------------------------------------


def test_get_message_returns_message_by_id(palaver: Client, message: Message) -> None:
    memory = palaver.get_memory("s")

    assert message.sequence == 2
    assert message == memory.messages[1]


def test_get_message_id_of_another_session_is_not_found(palaver: Client, message: Message) -> None:
    palaver.add("other", "hello")

    with refused(grpc.StatusCode.NOT_FOUND):
        palaver.get_message("other", "m")
