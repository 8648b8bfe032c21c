"""A server of the version before, next to the schema and the servers of this version."""

from collections.abc import Callable
from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration

from palaver.v1.admin_service_pb2 import ReindexRequest
from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import SearchMemoryRequest
from palaver_server.database.migrate import known_migrations
from tests.conftest import StartServer
from tests.support.client import Client, struct
from tests.support.concurrency import Connection
from tests.support.endpoint import Endpoint
from tests.support.palaver_process import Serve
from tests.support.previous_version import COMMITS, extract_version
from tests.support.rows import count_rows, let_expire, wait_until_embedded
from tests.support.searching import found

HOUR = Duration(seconds=3600)

SEMANTIC = SearchMemoryRequest.SEMANTIC

# A content, and a text that finds it.
CONTENTS = {
    "The foxes were running": "fox runs",
    "ÄRGER IN GÖTEBORG": "ärger in göteborg",
    "Straße nach İstanbul": "straße",
    "\ufb01nal o\ufb03ce": "final office",  # ligatures
    "東京タワーに行きました": "東京",
    "Ἀθῆναι ΚΑΛΗΜΕΡΑ": "καλημερα",
    "red/blue done.Next": "blue next",
    "हिन्दी में": "हिन्दी",
    "سلام، دنیا؟": "سلام، دنیا",
}


@pytest.fixture
def database_url(empty_database_url: str) -> str:
    return empty_database_url


@pytest.fixture(params=list(COMMITS.values()), ids=list(COMMITS))
def old(
    request: pytest.FixtureRequest,
    directory: Path,
    database_url: str,
    serve: Serve,
    endpoint: Endpoint,
) -> Client:
    """A client of a server of a version before, which has created the schema."""
    variables = extract_version(request.param, directory / "previous")
    settings = {f"PALAVER_{name.upper()}": str(value) for name, value in endpoint.settings.items()}
    return serve(PALAVER_DATABASE_URL=database_url, **settings, **variables)[1]


@pytest.fixture
def new(old: Client, database: Connection, start_server: StartServer, endpoint: Endpoint) -> Client:
    """A client of a server of this version, which has migrated the schema since."""
    assert count_rows(database, "schema_migrations") < len(known_migrations())
    new = start_server(**endpoint.settings)
    assert count_rows(database, "schema_migrations") == len(known_migrations())
    return new


def test_previous_version_wrote_what_this_version_finds_before_a_reindex(
    old: Client, request: pytest.FixtureRequest
) -> None:
    old.add_memory("s", [Message(role="user", content=content) for content in CONTENTS])
    found_before = {text: found(old, text, session_id="s") for text in CONTENTS.values()}
    new: Client = request.getfixturevalue("new")

    for content, text in CONTENTS.items():
        assert content in found(new, content, session_id="s")
        assert set(found(new, text, session_id="s")) >= set(found_before[text])
        assert found(new, f'"{content}"', session_id="s")[:1] == [content]

    *_, last = new.admin.Reindex(ReindexRequest())
    assert last.words.done == len(CONTENTS)
    for content, text in CONTENTS.items():
        assert found(new, text, session_id="s")[:1] == [content]


def test_previous_version_writes_what_this_version_finds(
    old: Client, new: Client, database: Connection
) -> None:
    old.add_session("s", user_id="ada", metadata=struct(plan="pro"))
    old.add_memory("s", [Message(role="user", content=content) for content in CONTENTS])
    old.add_ids("s", "updated", "deleted")
    # Before the delete: whether a deleted message got a vector depends on who was first.
    wait_until_embedded(database, len(CONTENTS) + 2)
    old.update_message("s", "updated", content="Updated contents")
    old.delete_messages("s", message_ids=["deleted"])
    wait_until_embedded(database, len(CONTENTS) + 2)

    assert new.contents("s") == [*CONTENTS, "Updated contents"]
    assert new.get_message("s", "updated").revision == 2
    for content, text in CONTENTS.items():
        assert found(new, text, session_id="s")[:1] == [content]
        assert content in found(new, content, session_id="s")
        assert content in found(new, content, session_id="s", mode=SEMANTIC)
    assert found(new, "update content") == ["Updated contents"]
    assert [user.user_id for user in new.list_users().users] == ["ada"]
    assert new.session_ids(metadata='$.plan == "pro"') == ["s"]


def test_previous_version_finds_and_changes_what_this_version_writes(
    old: Client, new: Client, database: Connection
) -> None:
    new.add_memory("s", [Message(role="user", content=content) for content in CONTENTS])
    new.add_memory(
        "s", [Message(message_id=i, role="user", content="new", payload=b"\0") for i in "ab"]
    )
    wait_until_embedded(database, len(CONTENTS) + 2)

    old.update_message("s", "a", content="Updated contents")
    old.delete_messages("s", message_ids=["b"])
    assert new.get_message("s", "a").payload == b"\0"
    old.add_ids("s", "b")
    assert new.get_message("s", "b").payload == b""
    old.delete_messages("s", message_ids=["b"])

    assert old.contents("s") == [*CONTENTS, "Updated contents"]
    for content in CONTENTS:
        assert content in found(old, content, session_id="s")
    assert found(new, "update content") == found(old, "update content") == ["Updated contents"]

    new.add_session("revived", user_id="ada")
    new.add("revived", "first")
    new.delete_user("ada")
    new.delete_session("s")
    old.add("revived", "second", user_id="ada")
    old.purge()

    assert new.contents("revived") == ["second"]
    assert new.get_session("revived").user_id == "ada"
    assert count_rows(database, "sessions") == count_rows(database, "messages") == 1


def test_previous_version_keeps_revisions_right(old: Client, new: Client) -> None:
    new.add_session("s", user_id="ada")
    new.add_ids("s", "m")

    old.update_session("s", metadata=struct(plan="pro"))
    old.update_user("ada", email="ada@example.com")
    old.update_message("s", "m", content="changed")
    old.add("s", "more")
    assert new.get_session("s").revision == 2
    assert new.get_user("ada").revision == 2
    assert new.get_message("s", "m").revision == 2

    old.delete_session("s")
    old.add_ids("s", "m")
    assert new.get_session("s").revision == 4
    assert new.get_message("s", "m").revision == 4
    old.delete_user("ada")
    old.add_user("ada")
    assert new.get_user("ada").revision == 4


def test_previous_version_keeps_expiry_right(
    old: Client, new: Client, database: Connection
) -> None:
    new.add_session("s", ttl=HOUR)
    new.add_ids("s", "a", "b")
    writes: list[Callable[[], object]] = [
        lambda: old.add("s", "more"),
        lambda: old.update_session("s", metadata=struct(plan="pro")),
        lambda: old.update_message("s", "a", content="changed"),
        lambda: old.delete_messages("s", message_ids=["b"]),
    ]
    for write in writes:
        database.execute("UPDATE sessions SET expires_at = now() + interval '1 minute'")
        before = new.get_session("s").expires_at
        write()
        assert new.get_session("s").expires_at.seconds > before.seconds + 3000

    old.delete_session("s")
    old.add("s", "back")
    assert new.get_session("s").ttl == HOUR

    let_expire(database, "s")
    assert new.session_ids() == []
    new.purge(HOUR)
    assert old.session_ids() == []

    old.add_session("s")
    assert not new.get_session("s").HasField("ttl")
    assert not new.get_session("s").HasField("expires_at")
