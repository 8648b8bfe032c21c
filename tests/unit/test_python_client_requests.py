"""The requests that the Python client makes for a call that takes a stream."""

from typing import Any

from palaver.client import Message
from palaver.client.rpcs import ADD_MEMORY

CONTENT = "x" * 1_000_000


def parts(contents: list[str]) -> list[Any]:
    messages = [Message(role="user", content=content) for content in contents]
    return list(ADD_MEMORY.requests({"session_id": "s", "messages": messages, "user_id": "ada"}))


def test_requests_first_has_all_fields_and_others_only_messages() -> None:
    first, second, third = parts([str(number) for number in range(2500)])

    assert (first.session_id, first.user_id) == ("s", "ada")
    assert [field.name for field, _ in second.ListFields()] == ["messages"]
    assert [len(part.messages) for part in (first, second, third)] == [1000, 1000, 500]
    contents = [message.content for part in (first, second, third) for message in part.messages]
    assert contents == [str(number) for number in range(2500)]


def test_requests_are_split_below_the_limit_of_bytes() -> None:
    requests = parts([CONTENT] * 20)

    assert [len(part.messages) for part in requests] == [8, 8, 4]
    assert all(part.ByteSize() < 16 * 1024 * 1024 for part in requests)


def test_requests_without_messages_are_one() -> None:
    (request,) = parts([])

    assert request.session_id == "s"


def test_requests_all_messages_have_ids() -> None:
    ids = [message.message_id for part in parts(["a"] * 1001) for message in part.messages]

    assert len(set(ids)) == 1001
    assert all(ids)
