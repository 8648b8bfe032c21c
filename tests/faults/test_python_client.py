"""The Python client while its server is killed or restarted: no call fails, or is stored twice."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from uuid import uuid4

import pytest

from palaver.client import AsyncClient, Client, Message
from tests.support.palaver_process import Serve
from tests.support.watching import eventually

# More than the service config lets fail before gRPC stops retrying.
CONCURRENCY = 80

# How long a server may take to start on a busy machine.
TIMEOUT_SECONDS = 60


class Appends:
    """Appends to a session, until they are stopped; the first error ends them."""

    def __init__(self, address: str) -> None:
        self.acknowledged: list[str] = []
        self.stopped = threading.Event()
        self._address = address

    def run_blocking(self) -> None:
        """Append from as many threads as there are calls at a time."""

        def append(client: Client) -> None:
            while not self.stopped.is_set():
                added = client.memory.add_memory("s", [Message(role="user", content="hello")])
                self.acknowledged += [message.message_id for message in added.messages]

        with (
            Client(self._address, timeout=TIMEOUT_SECONDS) as client,
            ThreadPoolExecutor(CONCURRENCY) as threads,
        ):
            for future in [threads.submit(append, client) for _ in range(CONCURRENCY)]:
                future.result()

    def run_async(self) -> None:
        """Append from as many tasks as there are calls at a time."""

        async def append(client: AsyncClient) -> None:
            while not self.stopped.is_set():
                added = await client.memory.add_memory("s", [Message(role="user", content="hello")])
                self.acknowledged += [message.message_id for message in added.messages]

        async def append_all() -> None:
            async with AsyncClient(self._address, timeout=TIMEOUT_SECONDS) as client:
                await asyncio.gather(*(append(client) for _ in range(CONCURRENCY)))

        asyncio.run(append_all())

    def run_sessions(self) -> None:
        """Add sessions and read each; adding is not retried where it may have taken effect."""

        async def add(client: AsyncClient) -> None:
            while not self.stopped.is_set():
                session = await client.memory.add_session(str(uuid4()))
                await client.memory.get_session(session.session_id)
                self.acknowledged.append(session.session_id)

        async def add_all() -> None:
            async with AsyncClient(self._address, timeout=TIMEOUT_SECONDS) as client:
                await asyncio.gather(*(add(client) for _ in range(CONCURRENCY)))

        asyncio.run(add_all())

    def progress(self) -> None:
        """Wait until more appends are acknowledged than may be under way."""
        goal = len(self.acknowledged) + 2 * CONCURRENCY
        eventually(
            lambda: self.stopped.is_set() or len(self.acknowledged) >= goal, "calls end", within=60
        )


@contextmanager
def running(run: Callable[[], None], appends: Appends) -> Iterator[None]:
    """Run appends during the block; fail if one failed."""
    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(run)
        future.add_done_callback(lambda _: appends.stopped.set())  # all end with the first error
        try:
            appends.progress()
            yield
        finally:
            appends.stopped.set()
        future.result()


@pytest.mark.parametrize("append", [Appends.run_blocking, Appends.run_async])
def test_python_client_no_append_fails_when_the_server_is_killed(
    serve: Serve, database_url: str, append: Callable[[Appends], None]
) -> None:
    palaver, stubs = serve(PALAVER_DATABASE_URL=database_url)
    appends = Appends(stubs.address)

    with running(lambda: append(appends), appends):
        palaver.kill()
        _, stubs = serve("--listen", stubs.address, PALAVER_DATABASE_URL=database_url)
        appends.progress()

    stored = [message.message_id for message in stubs.messages("s")]
    assert sorted(stored) == sorted(appends.acknowledged)


def test_python_client_no_call_fails_when_the_server_is_restarted(
    serve: Serve, database_url: str
) -> None:
    palaver, stubs = serve(PALAVER_DATABASE_URL=database_url)
    appends = Appends(stubs.address)

    with running(appends.run_sessions, appends):
        assert palaver.stop() == 0
        serve("--listen", stubs.address, PALAVER_DATABASE_URL=database_url)
        appends.progress()


def test_python_client_stream_resumes_when_the_server_is_killed(
    serve: Serve, database_url: str
) -> None:
    palaver, stubs = serve(PALAVER_DATABASE_URL=database_url)
    for _ in range(4):  # more than fits between a server and a client that does not read
        stubs.add("s", *["x" * 1_000_000] * 8)

    delivered = []
    with Client(stubs.address, timeout=TIMEOUT_SECONDS) as client:
        for chunk in client.memory.stream_messages("s", chunk_size=1):
            delivered += [message.sequence for message in chunk]
            if delivered == [1, 2]:
                palaver.kill()
                serve("--listen", stubs.address, PALAVER_DATABASE_URL=database_url)

    assert delivered == list(range(1, 33))
