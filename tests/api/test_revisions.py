"""Revisions of sessions, users and messages, and writes that expect one."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo

from palaver.v1.memory_pb2 import Message
from tests.conftest import StartServer
from tests.support.client import Client, refused, struct, violations
from tests.support.concurrency import unless_refused


@dataclass
class Resource:
    """A resource, and the calls that change it."""

    get: Callable[[], Any]
    update: Callable[..., Any]
    delete: Callable[..., Any]
    return_: Callable[[], Any]


@pytest.fixture(params=["session", "user"])
def resource(palaver: Client, request: pytest.FixtureRequest) -> Resource:
    """A session or a user; its revision is 1."""
    if request.param == "session":
        palaver.add_session("s", metadata=struct(a=1))
        return Resource(
            lambda: palaver.get_session("s"),
            lambda **fields: palaver.update_session("s", **fields),
            lambda **fields: palaver.delete_session("s", **fields),
            lambda: palaver.add("s", "back"),
        )
    palaver.add_user("u", metadata=struct(a=1))
    return Resource(
        lambda: palaver.get_user("u"),
        lambda **fields: palaver.update_user("u", **fields),
        lambda **fields: palaver.delete_user("u", **fields),
        lambda: palaver.add_user("u"),
    )


def add_message(palaver: Client, content: str = "hi") -> Message:
    palaver.add_memory("s", [Message(message_id="m", role="user", content=content)])
    return palaver.get_message("s", "m")


# --- Counting ----------------------------------------------------------------------------------


def test_revision_counts_changes_deletion_and_return(resource: Resource) -> None:
    revisions = [resource.get().revision]
    revisions.append(resource.update(metadata=struct(a=2)).revision)
    resource.delete()
    resource.return_()
    revisions.append(resource.get().revision)

    assert revisions == [1, 2, 4]


def test_revision_of_update_that_changes_nothing_stays(resource: Resource) -> None:
    before = resource.get()

    for fields in ({}, {"metadata": struct()}, {"metadata": struct(a=1)}):
        assert resource.update(**fields) == before
    assert resource.get() == before


def test_revision_tells_true_from_one(resource: Resource) -> None:
    assert resource.update(metadata=struct(a=True)).revision == 2


def test_revision_of_session_ignores_its_messages(palaver: Client) -> None:
    palaver.add_session("s")

    palaver.add("s", "a", "b")
    add_message(palaver)
    palaver.update_message("s", "m", content="changed")
    palaver.delete_messages("s", last_n=1)

    assert palaver.get_session("s").revision == 1


def test_revision_of_message_counts_updates_and_upserts(palaver: Client) -> None:
    assert add_message(palaver).revision == 1
    assert add_message(palaver).revision == 1
    assert add_message(palaver, "changed").revision == 2
    assert palaver.update_message("s", "m", content="again").revision == 3
    assert palaver.update_message("s", "m", content="again").revision == 3
    palaver.delete_messages("s", message_ids=["m"])
    assert add_message(palaver).revision == 5


def test_revision_of_session_counts_the_deletion_of_its_user(palaver: Client) -> None:
    palaver.add_session("s", user_id="u")

    palaver.delete_user("u")
    palaver.add("s", "new")

    assert palaver.get_session("s").revision == 3


def test_revision_of_placeholder_counts_its_completion(palaver: Client) -> None:
    palaver.add_session("s", user_id="u")

    assert palaver.get_user("u").revision == 1
    assert palaver.update_user("u").revision == 2
    assert palaver.update_user("u").revision == 2


def test_update_message_that_changes_nothing_leaves_session_and_message(palaver: Client) -> None:
    message = add_message(palaver)
    session = palaver.get_session("s")

    assert palaver.update_message("s", "m", content="hi", role="user") == message
    assert palaver.get_session("s") == session


# --- Expected revisions ------------------------------------------------------------------------


def current_revision(call: Callable[[], object]) -> int:
    """Return the current revision that an aborted call tells."""
    with refused(grpc.StatusCode.ABORTED) as refusal:
        call()
    info = refusal.detail(ErrorInfo)
    assert info.reason == "STALE_REVISION"
    return int(info.metadata["revision"])


def test_expected_revision_another_one_is_aborted_and_changes_nothing(resource: Resource) -> None:
    before = resource.get()

    for expected in (0, 2, 2**63 - 1):
        update = {"metadata": struct(a=2), "expected_revision": expected}
        assert current_revision(lambda: resource.update(**update)) == 1  # noqa: B023
        assert current_revision(lambda: resource.delete(expected_revision=expected)) == 1  # noqa: B023
    assert resource.get() == before


def test_expected_revision_the_current_one_is_carried_out(resource: Resource) -> None:
    updated = resource.update(metadata=struct(a=2), expected_revision=1)
    resource.delete(expected_revision=updated.revision)

    with refused(grpc.StatusCode.NOT_FOUND):
        resource.get()


def test_expected_revision_of_a_missing_resource_is_not_found(resource: Resource) -> None:
    resource.delete()

    for expected in (0, 1, 3):
        for call in (resource.update, resource.delete):
            with refused(grpc.StatusCode.NOT_FOUND):
                call(expected_revision=expected)


def test_expected_revision_with_allow_missing_zero_creates(resource: Resource) -> None:
    resource.delete()

    assert current_revision(lambda: resource.update(expected_revision=2, allow_missing=True)) == 0
    created = resource.update(metadata=struct(b=1), expected_revision=0, allow_missing=True)
    assert created.metadata == struct(b=1)
    again = {"expected_revision": 0, "allow_missing": True}
    assert current_revision(lambda: resource.update(**again)) == created.revision


def test_expected_revision_negative_is_refused(resource: Resource) -> None:
    assert violations(lambda: resource.update(expected_revision=-1)) == ["expected_revision"]
    assert violations(lambda: resource.delete(expected_revision=-1)) == ["expected_revision"]


def test_expected_revision_of_message(palaver: Client) -> None:
    message = add_message(palaver)

    wrong = {"content": "changed", "expected_revision": message.revision + 1}
    assert current_revision(lambda: palaver.update_message("s", "m", **wrong)) == 1
    assert palaver.get_message("s", "m") == message
    updated = palaver.update_message("s", "m", content="changed", expected_revision=1)
    assert updated.revision == 2


def test_expected_revision_of_add_memory(palaver: Client) -> None:
    palaver.add("s", "a", expected_revision=0)
    palaver.add("s", "b", expected_revision=1)

    assert current_revision(lambda: palaver.add("s", "c", expected_revision=0)) == 1
    assert current_revision(lambda: palaver.add("s", "c", expected_revision=2)) == 1
    assert palaver.contents("s") == ["a", "b"]
    palaver.delete_session("s")
    assert current_revision(lambda: palaver.add("s", "c", expected_revision=2)) == 0
    palaver.add("s", "c", expected_revision=0)
    assert palaver.contents("s") == ["c"]


@pytest.mark.parametrize("delete", ["delete_session", "delete_memory"])
def test_expected_last_sequence_of_deletes(palaver: Client, delete: str) -> None:
    palaver.add("s", "a", "b")

    for call in (
        lambda: getattr(palaver, delete)("s", expected_last_sequence=1),
        lambda: palaver.delete_messages("s", last_n=1, expected_last_sequence=3),
    ):
        with refused(grpc.StatusCode.ABORTED) as refusal:
            call()
        assert refusal.detail(ErrorInfo).metadata["last_sequence"] == "2"
    palaver.delete_messages("s", last_n=1, expected_last_sequence=2)
    assert palaver.contents("s") == ["a"]
    assert getattr(palaver, delete)("s", expected_last_sequence=2).messages_deleted == 1


# --- Races -------------------------------------------------------------------------------------


def test_expected_revision_in_a_race_lets_one_writer_through(
    start_server: StartServer, resource: Resource, palaver: Client
) -> None:
    """Over two servers, each of several rounds has one winner, whose value is there."""
    kind = type(resource.get()).__name__.lower()
    name = "s" if kind == "session" else "u"
    updates = [
        getattr(client, f"update_{kind}") for client in (palaver, start_server()) for _ in range(4)
    ]

    def try_update(numbered: tuple[int, Callable[..., Any]], revision: int) -> int | None:
        writer, update = numbered
        fields = {"metadata": struct(winner=writer), "expected_revision": revision}
        answer = unless_refused(grpc.StatusCode.ABORTED, lambda: update(name, **fields))
        return None if answer is None else writer

    with ThreadPoolExecutor(len(updates)) as threads:
        for revision in range(1, 6):
            numbered = enumerate(updates, 10 * revision)
            outcomes = threads.map(partial(try_update, revision=revision), numbered)
            (winner,) = [writer for writer in outcomes if writer is not None]
            assert resource.get().revision == revision + 1
            assert resource.get().metadata["winner"] == winner
