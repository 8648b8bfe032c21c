"""The Python client: its calls, values and iterators, errors, retries and connections."""

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from palaver.client import (
    AlreadyExists,
    Client,
    DeadlineExceeded,
    InvalidArgument,
    Message,
    NotFound,
    PermissionDenied,
    SessionFilter,
    StaleLastSequence,
    StaleRevision,
    Tls,
    Unauthenticated,
    Unavailable,
)
from palaver.v1.session_service_pb2 import DeleteSessionRequest
from palaver_server.auth.roles import Role
from tests.clients.conftest import Connect
from tests.conftest import StartServer
from tests.support.callers import KeysFile
from tests.support.certificates import Authority
from tests.support.client import Client as Stubs
from tests.support.client import wait_until
from tests.support.concurrency import MAX_WAIT_SECONDS, Connection, begin, wait_until_blocked
from tests.support.flaky_network import flaky_network_to
from tests.support.locks import locked

UNREACHABLE = "127.0.0.1:1"

QUESTION = Message(role="user", content="Where is Lagos?")


def test_page_of_client_code(client: Client) -> None:
    memory = client.memory

    memory.add_session("s", user_id="ada", metadata={"plan": "pro", "seats": 3})
    memory.update_session("s", metadata={"plan": None, "tags": {"lang": "en"}})
    session = memory.get_session("s")
    page = memory.list_sessions(limit=10, cursor=0)
    chunks = list(memory.list_all_sessions(chunk_size=100))
    memory.delete_session("s")

    assert (session.user_id, session.metadata) == ("ada", {"seats": 3, "tags": {"lang": "en"}})
    assert [each.session_id for each in page] == ["s"]
    assert (len(page), page.next_cursor) == (1, 0)
    assert [[each.session_id for each in chunk] for chunk in chunks] == [["s"]]
    with pytest.raises(NotFound):
        memory.get_session("s")


METADATA = {
    "text": "Lagos ✓",
    "whole": 2**53,
    "fraction": 0.5,
    "yes": True,
    "nothing": None,
    "list": [1, "two", [], {}],
    "nested": {"empty": {}},
}


def test_metadata_comes_back_as_given(client: Client) -> None:
    client.memory.add_session("s", metadata=METADATA)

    metadata = client.memory.get_session("s").metadata

    assert metadata == METADATA
    assert type(metadata["whole"]) is int
    assert type(metadata["yes"]) is bool


def test_metadata_tuple_comes_back_as_list(client: Client) -> None:
    client.memory.add_session("s", metadata={"list": ("a", "b")})

    assert client.memory.get_session("s").metadata == {"list": ["a", "b"]}


@pytest.mark.parametrize("value", [2**53 + 1, -(2**53) - 1])
def test_metadata_integer_that_would_change_is_refused(client: Client, value: int) -> None:
    with pytest.raises(ValueError, match=rf"metadata\.a\[0\]: must be .* got {value}"):
        client.memory.add_session("s", metadata={"a": [value]})


def test_metadata_value_of_another_type_is_refused(client: Client) -> None:
    with pytest.raises(TypeError, match=r"metadata\.at: must be a value of JSON"):
        client.memory.add_session("s", metadata={"at": datetime.now(UTC)})


def test_update_session_empty_metadata_differs_from_none(client: Client) -> None:
    client.memory.add_session("s", metadata={"a": 1})
    client.memory.update_session("s", metadata_mode="REPLACE")
    assert client.memory.get_session("s").metadata == {"a": 1}

    client.memory.update_session("s", metadata={}, metadata_mode="REPLACE")

    assert client.memory.get_session("s").metadata == {}


def test_update_session_unknown_mode_is_refused(client: Client) -> None:
    mode: Any = "OVERWRITE"

    with pytest.raises(
        ValueError, match=r"MetadataMode: must be one of .*REPLACE.* got 'OVERWRITE'"
    ):
        client.memory.update_session("s", metadata={}, metadata_mode=mode)


def test_times_are_exact_in_any_time_zone(client: Client) -> None:
    at = datetime(2024, 2, 29, 12, 0, 0, 123456, timezone(timedelta(hours=9)))

    session = client.memory.add_session("s", created_at=at)

    assert session.created_at == at
    assert session.created_at.tzinfo is UTC


def test_times_without_time_zone_are_refused(client: Client) -> None:
    with pytest.raises(ValueError, match="created_at: must have a time zone"):
        client.memory.add_session("s", created_at=datetime(2024, 1, 1))  # noqa: DTZ001


def test_add_memory_gives_messages_ids(client: Client) -> None:
    added = client.memory.add_memory(
        "s", [QUESTION, {"role": "assistant", "content": "In Nigeria.", "metadata": {"n": 1}}]
    )

    memory = client.memory.get_memory("s", last_n=10)
    assert [(each.sequence, each.role, each.content) for each in memory.messages] == [
        (1, "user", "Where is Lagos?"),
        (2, "assistant", "In Nigeria."),
    ]
    assert memory.messages[1].metadata == {"n": 1}
    ids = [each.message_id for each in added.messages]
    assert [each.message_id for each in memory.messages] == ids
    assert [each[14] for each in ids] == ["7", "7"]
    assert ids[0][:13] <= ids[1][:13], "IDs made later sort later"


def test_add_memory_message_that_was_read_can_be_added_again(client: Client) -> None:
    client.memory.add_memory("s", [QUESTION])
    (message,) = client.memory.get_memory("s").messages

    client.memory.add_memory("copy", [message])

    (copy,) = client.memory.get_memory("copy").messages
    assert (copy.message_id, copy.content, copy.created_at) == (
        message.message_id,
        message.content,
        message.created_at,
    )


def test_unknown_field_of_a_message_is_refused(client: Client) -> None:
    with pytest.raises(TypeError, match="Message has no field 'text'"):
        client.memory.add_memory("s", [{"role": "user", "text": "hello"}])


def test_filters_are_values_or_mappings(client: Client) -> None:
    client.memory.add_session("a", user_id="ada")
    client.memory.add_session("b", user_id="bob")

    for narrowed in (SessionFilter(user_id="bob"), {"user_id": "bob"}):
        page = client.memory.list_sessions(filter=narrowed)
        assert [session.session_id for session in page] == ["b"]


def test_search_memory_results_have_names_of_modes(client: Client) -> None:
    client.memory.add_memory("s", [QUESTION])

    found = client.memory.search_memory(text="Lagos", session_id="s", mode="KEYWORD")

    assert found.mode == "KEYWORD"
    assert [result.message.content for result in found.results if result.message] == [
        "Where is Lagos?"
    ]


def test_users_and_admin_have_the_other_calls(client: Client) -> None:
    client.users.add_user("ada", email="ada@example.com")
    assert client.users.get_user("ada").email == "ada@example.com"
    assert [user.user_id for user in client.users.iter_users()] == ["ada"]
    client.users.delete_user("ada")

    *_, last = client.admin.purge_deleted(older_than=timedelta(0))

    assert last.users is not None
    assert last.users.done == 1


@pytest.fixture
def sessions(palaver: Stubs) -> list[str]:
    """The ids of 250 sessions, in the order of the listing."""
    ids = [f"s{number}" for number in range(250)]
    palaver.add_sessions(*ids)
    return ids


def test_iter_sessions_gets_all_pages(client: Client, sessions: list[str]) -> None:
    assert [session.session_id for session in client.memory.iter_sessions()] == sessions
    newest_first = client.memory.iter_sessions(newest_first=True)
    assert [session.session_id for session in newest_first] == sessions[::-1]


def test_list_all_sessions_yields_chunks(client: Client, sessions: list[str]) -> None:
    chunks = list(client.memory.list_all_sessions(chunk_size=100))

    assert [len(chunk) for chunk in chunks] == [100, 100, 50]
    assert [session.session_id for chunk in chunks for session in chunk] == sessions
    (rest,) = client.memory.list_all_sessions(chunk_size=100, cursor=chunks[1].next_cursor)
    assert rest == chunks[2]


def test_list_all_sessions_left_early_ends_the_call(client: Client, sessions: list[str]) -> None:
    for _ in client.memory.list_all_sessions(chunk_size=1):
        break

    assert client.memory.get_session("s0").session_id == "s0"


def test_closed_client_makes_no_calls(client: Client) -> None:
    client.memory.add_session("s")

    client.close()

    with pytest.raises(ValueError, match="closed"):
        client.memory.get_session("s")


def test_errors_name_the_resource(client: Client) -> None:
    client.memory.add_session("s")

    with pytest.raises(AlreadyExists) as exists:
        client.memory.add_session("s")
    with pytest.raises(NotFound) as missing:
        client.memory.get_message("s", "m")

    assert (exists.value.resource_type, exists.value.resource_name) == ("Session", "s")
    assert (missing.value.resource_type, missing.value.resource_name) == ("Message", "m")
    assert missing.value.request_id


def test_errors_name_all_violations(client: Client) -> None:
    with pytest.raises(InvalidArgument, match="INVALID_ARGUMENT: ") as invalid:
        client.memory.list_sessions(limit=5000, cursor=-1)

    assert [violation.field for violation in invalid.value.violations] == ["limit", "cursor"]
    assert all(violation.description for violation in invalid.value.violations)


def test_errors_have_the_expected_and_the_actual_state(client: Client) -> None:
    client.memory.add_memory("s", [QUESTION])

    with pytest.raises(StaleLastSequence) as last_sequence:
        client.memory.add_memory("s", [QUESTION], expected_last_sequence=0)
    with pytest.raises(StaleRevision) as revision:
        client.memory.update_session("s", metadata={"a": 1}, expected_revision=7)

    assert (last_sequence.value.expected, last_sequence.value.actual) == (0, 1)
    assert (revision.value.expected, revision.value.actual) == (7, 1)


def test_retry_add_memory_after_a_lost_answer_adds_once(palaver: Stubs, connect: Connect) -> None:
    with flaky_network_to(palaver.address) as network:
        client = connect(network.address)
        client.memory.add_session("s")
        network.to_lose = 1
        added = client.memory.add_memory("s", [QUESTION, QUESTION])

    assert network.lost == 1
    assert [message.sequence for message in added.messages] == [1, 2]
    assert len(palaver.messages("s")) == 2


def test_retry_add_memory_with_a_condition_is_left_to_the_caller(
    palaver: Stubs, connect: Connect
) -> None:
    with flaky_network_to(palaver.address) as network:
        client = connect(network.address)
        client.memory.add_session("s")
        network.to_lose = 1
        with pytest.raises(Unavailable):
            client.memory.add_memory("s", [QUESTION], expected_last_sequence=0)

    assert network.lost == 1


def test_retry_any_call_that_a_busy_server_refused(
    start_server: StartServer, database_url: str, database: Connection, connect: Connect
) -> None:
    palaver = start_server(max_running_calls=1, max_waiting_calls=0)
    palaver.add("s", "hello")

    with flaky_network_to(palaver.address) as network:
        client = connect(network.address)
        client.memory.get_session("s")
        with locked(database_url):
            running = palaver.sessions.DeleteSession.future(DeleteSessionRequest(session_id="s"))
            wait_until_blocked(database)
            carried = network.carried
            adding = begin(lambda: client.memory.add_session("other"))
            wait_until(lambda: network.carried > carried)
        assert running.result().messages_deleted == 1
        assert adding.result(MAX_WAIT_SECONDS).session_id == "other"


def test_retry_resumes_a_broken_stream(palaver: Stubs, connect: Connect) -> None:
    for _ in range(2):  # more than fits between a server and a client that does not read
        palaver.add("s", *["x" * 1_000_000] * 8)

    delivered = []
    with flaky_network_to(palaver.address) as network:
        client = connect(network.address)
        for chunk in client.memory.stream_messages("s", chunk_size=1):
            delivered += [message.sequence for message in chunk]
            if delivered == [1]:
                network.to_lose = 1  # the end of the stream

    assert network.lost == 1
    assert delivered == list(range(1, 17))


def test_timeout_ends_the_retries(connect: Connect) -> None:
    client = connect(UNREACHABLE, timeout=0.3)

    with pytest.raises((DeadlineExceeded, Unavailable)):
        client.memory.get_session("s")
    with pytest.raises(Unavailable):
        list(client.memory.list_all_sessions())


def test_addresses_share_the_calls(start_server: StartServer, connect: Connect) -> None:
    servers = [start_server() for _ in range(2)]
    ports = [server.address.rpartition(":")[2] for server in servers]
    client = connect([f"127.0.0.1:{ports[0]}", f"localhost:{ports[1]}"])

    client.memory.add_session("s")
    assert client.memory.get_session("s").session_id == "s"


def test_address_of_a_list_without_port_is_refused(connect: Connect) -> None:
    with pytest.raises(ValueError, match="address: must be HOST:PORT; got 'localhost'"):
        connect(["127.0.0.1:50051", "localhost"])


def test_key_is_sent_with_each_call(
    start_server: StartServer, tmp_path: Path, connect: Connect
) -> None:
    keys_file = KeysFile(tmp_path / "credentials.toml")
    current = iter([keys_file.add(Role.WRITER), keys_file.add(Role.READER), "wrong"])
    address = start_server(credentials=keys_file.path).address
    client = connect(address, key=lambda: next(current))

    client.memory.add_session("s")
    with pytest.raises(PermissionDenied) as denied:
        client.memory.delete_session("s")
    with pytest.raises(Unauthenticated):
        client.memory.get_session("s")

    assert denied.value.reason == "ROLE_TOO_LOW"


def test_key_is_not_sent_in_the_clear_unless_allowed(connect: Connect) -> None:
    with pytest.raises(ValueError, match="key: would be sent in the clear"):
        connect("palaver.example:50051", key="secret")

    connect("palaver.example:50051", key="secret", plaintext_key=True)
    connect("palaver.example:50051", key="secret", tls=True)


def test_tls_with_a_client_certificate(
    start_server: StartServer, tmp_path: Path, connect: Connect
) -> None:
    authority = Authority()
    (tmp_path / "ca.pem").write_bytes(authority.certificate)
    authority.issue().write(tmp_path / "server.pem", tmp_path / "server-key.pem")
    authority.issue(("CN", "ada")).write(tmp_path / "client.pem", tmp_path / "client-key.pem")
    address = start_server(
        tls_certificate=tmp_path / "server.pem",
        tls_key=tmp_path / "server-key.pem",
        tls_client_ca=tmp_path / "ca.pem",
    ).address
    tls = Tls(
        ca=tmp_path / "ca.pem", certificate=tmp_path / "client.pem", key=tmp_path / "client-key.pem"
    )

    connect(address, tls=tls).memory.add_session("s")

    without = connect(address, tls=Tls(ca=tmp_path / "ca.pem"), timeout=0.5)
    with pytest.raises((DeadlineExceeded, Unavailable)):
        without.memory.get_session("s")
