"""Updates and additions that say what to do with a missing session or user."""

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from palaver.v1.metadata_pb2 import MetadataMode
from tests.support.callers import OTHER_USER, add_others_session
from tests.support.client import Client, refused, struct, violations

# --- allow_missing -----------------------------------------------------------------------------


def test_update_session_allow_missing_adds_it_as_add_session_would(palaver: Client) -> None:
    patch = struct(plan="pro", gone=None, nested={"a": None, "b": 1})

    added = palaver.update_session("s", user_id="u", metadata=patch, allow_missing=True)

    assert (added.user_id, added.revision) == ("u", 1)
    assert added.metadata == struct(plan="pro", nested={"b": 1})
    assert palaver.get_session("s") == added
    assert palaver.get_user("u").user_id == "u"


def test_update_session_allow_missing_keeps_nulls_of_other_modes(palaver: Client) -> None:
    for mode in (MetadataMode.METADATA_MODE_REPLACE, MetadataMode.METADATA_MODE_TOP_LEVEL):
        added = palaver.update_session(
            f"s{mode}", metadata=struct(a=None), metadata_mode=mode, allow_missing=True
        )
        assert added.metadata == struct(a=None)


def test_update_session_allow_missing_starts_a_deleted_session_again(palaver: Client) -> None:
    old = palaver.add_session("s", user_id="u", metadata=struct(a=1))
    palaver.add("s", "old")
    palaver.delete_session("s")

    added = palaver.update_session("s", metadata=struct(b=1), allow_missing=True)

    assert (added.user_id, added.last_sequence) == ("", 1)
    assert added.metadata == struct(b=1)
    assert added.id > old.id
    assert palaver.contents("s") == []


def test_update_session_allow_missing_updates_a_live_session(palaver: Client) -> None:
    palaver.add_session("s", user_id="u", metadata=struct(a=1))

    updated = palaver.update_session("s", metadata=struct(b=1), allow_missing=True)

    assert updated.metadata == struct(a=1, b=1)
    assert updated.user_id == "u"


def test_update_user_allow_missing_adds_it_as_add_user_would(palaver: Client) -> None:
    added = palaver.update_user("u", email="e", metadata=struct(a=1, b=None), allow_missing=True)

    assert (added.email, added.first_name, added.revision) == ("e", "", 1)
    assert added.metadata == struct(a=1)
    with refused(grpc.StatusCode.ALREADY_EXISTS):
        palaver.add_user("u")
    assert palaver.update_user("u", first_name="Ada", allow_missing=True).email == "e"


def test_update_allow_missing_of_a_foreign_id_is_not_found(admin: Client, scoped: Client) -> None:
    add_others_session(admin, "s")
    admin.add_session("deleted", user_id=OTHER_USER)
    admin.delete_session("deleted")

    for session_id in ("s", "deleted"):
        with refused(grpc.StatusCode.NOT_FOUND):
            scoped.update_session(session_id, metadata=struct(a=1), allow_missing=True)
    for user_id in (OTHER_USER, "absent"):
        with refused(grpc.StatusCode.NOT_FOUND):
            scoped.update_user(user_id, metadata=struct(a=1), allow_missing=True)
    with refused(grpc.StatusCode.NOT_FOUND):
        admin.get_user("absent")


def test_update_session_allow_missing_of_a_bound_caller_belongs_to_its_user(
    admin: Client, scoped: Client
) -> None:
    added = scoped.update_session("new", allow_missing=True)

    assert added.user_id == "ada"
    assert admin.get_user("ada").user_id == "ada"


# --- undelete ----------------------------------------------------------------------------------


def test_update_session_undelete_restores_all_but_messages(palaver: Client) -> None:
    before = palaver.add_session("s", user_id="u", metadata=struct(a=1))
    palaver.add("s", "old")
    palaver.delete_session("s")

    restored = palaver.update_session("s", metadata=struct(b=2), undelete=True)

    assert (restored.user_id, restored.id, restored.last_sequence) == ("u", before.id, 1)
    assert restored.metadata == struct(a=1, b=2)
    assert restored.created_at == before.created_at
    assert palaver.contents("s") == []


def test_update_session_undelete_has_no_effect_on_a_live_session(palaver: Client) -> None:
    before = palaver.add_session("s")

    assert palaver.update_session("s", undelete=True) == before


def test_update_session_undelete_of_what_is_gone_is_not_found(palaver: Client) -> None:
    palaver.add_session("purged")
    palaver.delete_session("purged")
    palaver.purge()
    palaver.add_session("of a deleted user", user_id="u")
    palaver.delete_user("u")

    for session_id in ("absent", "purged", "of a deleted user"):
        with refused(grpc.StatusCode.NOT_FOUND):
            palaver.update_session(session_id, undelete=True)


def test_update_session_undelete_and_allow_missing_restore_or_add(palaver: Client) -> None:
    palaver.add_session("s", metadata=struct(a=1))
    palaver.delete_session("s")

    for session_id, metadata in (("s", struct(a=1, b=1)), ("new", struct(b=1))):
        updated = palaver.update_session(
            session_id, metadata=struct(b=1), undelete=True, allow_missing=True
        )
        assert updated.metadata == metadata


# --- AddSession and AddUser --------------------------------------------------------------------


def test_add_session_user_must_exist(palaver: Client) -> None:
    with refused(grpc.StatusCode.NOT_FOUND):
        palaver.add_session("s", user_id="u", user_must_exist=True)
    with refused(grpc.StatusCode.NOT_FOUND):
        palaver.get_session("s")
    palaver.add_user("u")
    assert palaver.add_session("s", user_id="u", user_must_exist=True).user_id == "u"
    assert palaver.add_session("t", user_must_exist=True).user_id == ""
    palaver.delete_user("u")
    with refused(grpc.StatusCode.NOT_FOUND):
        palaver.add_session("s", user_id="u", user_must_exist=True)


def test_add_session_and_user_created_at_is_kept(palaver: Client) -> None:
    time = Timestamp(seconds=1_000_000, nanos=123_456_789)
    stored = Timestamp(seconds=1_000_000, nanos=123_456_000)

    assert palaver.add_session("s", user_id="placeholder", created_at=time).created_at == stored
    assert palaver.get_session("s").created_at == stored
    assert palaver.add_user("u", created_at=time).created_at == stored
    assert palaver.add_user("placeholder", created_at=time).created_at == stored
    palaver.delete_session("s")
    assert palaver.add_session("s").created_at.seconds > stored.seconds


# --- first_n -----------------------------------------------------------------------------------


def test_delete_messages_first_n_deletes_the_oldest(palaver: Client) -> None:
    palaver.add("s", "a", "b", "c")

    deleted = palaver.delete_messages("s", first_n=2)

    assert [message.content for message in deleted.messages] == ["a", "b"]
    assert palaver.contents("s") == ["c"]


@pytest.mark.parametrize(
    ("fields", "invalid"),
    [
        ({"first_n": 1001}, ["first_n"]),
        ({"first_n": -1}, ["first_n"]),
        ({"first_n": 1, "last_n": 1}, ["last_n"]),
        ({"first_n": 1, "message_ids": ["a"]}, ["first_n"]),
        ({}, ["last_n"]),
    ],
)
def test_delete_messages_selects_in_one_way(
    palaver: Client, fields: dict[str, object], invalid: list[str]
) -> None:
    palaver.add("s", "a")

    assert violations(lambda: palaver.delete_messages("s", **fields)) == invalid
    assert palaver.contents("s") == ["a"]
