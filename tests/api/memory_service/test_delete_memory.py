"""MemoryService.DeleteMemory: the session is deleted with its messages."""

import grpc

from tests.support.client import Client, refused

# --- Contract ----------------------------------------------------------------------------------


def test_delete_memory_deletes_session_and_messages(palaver: Client) -> None:
    palaver.add("s", "a", "b")
    before = palaver.get_session("s")

    deleted = palaver.delete_memory("s")

    assert deleted.messages_deleted == 2
    assert deleted.deleted_at.ToNanoseconds() >= before.updated_at.ToNanoseconds()
    with refused(grpc.StatusCode.NOT_FOUND):
        palaver.get_memory("s")
    with refused(grpc.StatusCode.NOT_FOUND):
        palaver.get_session("s")
