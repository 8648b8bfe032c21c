"""The service config for clients: it covers every RPC, and a real client follows it."""

import importlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import grpc
import pytest
from google.protobuf.descriptor_pb2 import MethodOptions

from palaver.v1.session_service_pb2 import DeleteSessionRequest
from tests.conftest import StartServer
from tests.support.client import Client, wait_until
from tests.support.concurrency import MAX_WAIT_SECONDS, Connection, begin, wait_until_blocked
from tests.support.contract import SERVICE_CONFIG
from tests.support.flaky_network import FlakyNetwork, flaky_network_to
from tests.support.locks import locked
from tests.support.processes import ROOT

# Calls with side effects that may run twice. Not AddMemory, which may
# come without ids; nor calls that answer ALREADY_EXISTS or NOT_FOUND the second time.
REPEATABLE = {"UpdateSession", "UpdateMessage", "UpdateUser", "PurgeDeleted", "Reindex"}


# DeleteUser lasts as long as the user has sessions to delete.
UNLIMITED = {"DeleteUser"}


def methods() -> dict[tuple[str, str], tuple[set[str], str | None]]:
    """Return the codes on which the config retries each method, and its timeout."""
    return {
        (name["service"], name["method"]): (
            set(entry["retryPolicy"]["retryableStatusCodes"]),
            entry.get("timeout"),
        )
        for entry in json.loads(SERVICE_CONFIG)["methodConfig"]
        for name in entry["name"]
    }


def test_retry_policy_covers_every_rpc_by_what_is_safe() -> None:
    expected = {}
    for file in (ROOT / "protos").rglob("*_service.proto"):
        module = importlib.import_module(f"palaver.v1.{file.stem}_pb2")
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                options = method.GetOptions()
                reads = options.idempotency_level == MethodOptions.NO_SIDE_EFFECTS
                lost_is_safe = reads or method.name in REPEATABLE
                codes = {"RESOURCE_EXHAUSTED"} | ({"UNAVAILABLE"} if lost_is_safe else set())
                limited = not (method.server_streaming or method.name in UNLIMITED)
                expected[service.full_name, method.name] = codes, "30s" if limited else None

    assert methods() == expected
    assert all(entry["waitForReady"] for entry in json.loads(SERVICE_CONFIG)["methodConfig"])


@contextmanager
def connected_through(network: FlakyNetwork) -> Iterator[Client]:
    """Yield a client with the config, connected over the network."""
    options = [("grpc.service_config", SERVICE_CONFIG)]
    with grpc.insecure_channel(network.address, options) as channel:
        grpc.channel_ready_future(channel).result(MAX_WAIT_SECONDS)
        yield Client(channel, network.address)


def count_messages(palaver: Client, session_id: str) -> int:
    return len(palaver.get_memory(session_id).messages)


def test_retry_policy_repeats_safe_calls_after_lost_answers(palaver: Client) -> None:
    palaver.add("s", "hello")

    with flaky_network_to(palaver.address) as network, connected_through(network) as caller:
        network.to_lose = 2
        session = caller.get_session("s")

    assert session.last_sequence == 1
    assert network.lost == 2


def test_retry_policy_does_not_repeat_unsafe_calls(palaver: Client) -> None:
    with flaky_network_to(palaver.address) as network, connected_through(network) as caller:
        network.to_lose = 1
        with pytest.raises(grpc.RpcError) as raised:
            caller.add("s", "hello")

    assert cast("grpc.Call", raised.value).code() is grpc.StatusCode.UNAVAILABLE
    wait_until(lambda: count_messages(palaver, "s") == 1)
    assert network.lost == 1


def test_retry_policy_repeats_any_call_a_busy_server_refused(
    start_server: StartServer, database_url: str, database: Connection
) -> None:
    palaver = start_server(max_running_calls=1, max_waiting_calls=0)
    palaver.add("s", "hello")

    with flaky_network_to(palaver.address) as network, connected_through(network) as caller:
        with locked(database_url):
            running = palaver.sessions.DeleteSession.future(DeleteSessionRequest(session_id="s"))
            wait_until_blocked(database)
            carried = network.carried
            adding = begin(lambda: caller.add("other", "hello"))
            wait_until(lambda: network.carried > carried)
        assert running.result().messages_deleted == 1
        assert adding.result(MAX_WAIT_SECONDS).session_created

    assert count_messages(palaver, "other") == 1
