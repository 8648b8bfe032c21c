"""The composition root: builds a server from the settings, runs it and shuts it down."""

import asyncio
import gc
import logging
import signal
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc

from palaver_server.addresses import is_unix, with_port
from palaver_server.bootstrap.background import in_background
from palaver_server.bootstrap.database import (
    READ_TABLES,
    VECTOR_TABLES,
    WRITTEN_TABLES,
    open_pool,
    open_reading,
)
from palaver_server.bootstrap.embedding import open_embedding
from palaver_server.bootstrap.migration import prepare_schema
from palaver_server.bootstrap.security import Security
from palaver_server.bootstrap.services import SERVICES, grpc_methods, palaver_methods
from palaver_server.bootstrap.telemetry import add_metrics, open_telemetry
from palaver_server.config import Settings
from palaver_server.database.pool import Pool
from palaver_server.database.url import with_timeouts
from palaver_server.embedding.semantic_search import SemanticSearch
from palaver_server.interceptors.chain import InterceptorChain
from palaver_server.interceptors.concurrency_limit import ConcurrencyLimit
from palaver_server.interceptors.error_mapping import ErrorMapping
from palaver_server.interceptors.interceptor import Interceptor
from palaver_server.interceptors.micro_batching import MicroBatching
from palaver_server.interceptors.read_only import ReadOnly
from palaver_server.interceptors.request_bytes import RequestBytes
from palaver_server.interceptors.response_bytes import ResponseBytes
from palaver_server.interceptors.running_calls import RunningCalls
from palaver_server.interceptors.send_timeout import SendTimeout
from palaver_server.process.available_memory import default_request_bytes, default_response_bytes
from palaver_server.process.file_descriptors import raise_limit
from palaver_server.process.logging_setup import keep_grpc_to_the_log
from palaver_server.process.memory_trim import trim_memory
from palaver_server.process.running_command import running_command
from palaver_server.purge.purge_store import PurgeStore
from palaver_server.purge.purger import Purger
from palaver_server.search.keyword_index import check_language
from palaver_server.telemetry.telemetry import Telemetry
from palaver_server.transport.database_health import DatabaseHealth
from palaver_server.transport.health_service import HealthService
from palaver_server.transport.server_options import ConnectionLimits, server_options
from palaver_server.transport.shutdown import shut_down, wait_for_ended_calls
from palaver_server.transport.unused_connections import UnusedConnections

_LOGGER = logging.getLogger(__name__)

# Descriptors for everything but clients and the pool: metrics, embedding, files, gRPC's threads.
_OWN_DESCRIPTORS = 128


async def serve(settings: Settings, database_url: str) -> None:
    """Run the service until SIGTERM or SIGINT, then let running calls finish."""
    keep_grpc_to_the_log()
    starting = asyncio.current_task()
    stopping = asyncio.Event()

    def stop() -> None:
        stopping.set()
        if starting:
            starting.cancel()  # the start may be waiting for a database that does not answer

    for signal_number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signal_number, stop)
    try:
        async with running(settings, database_url) as address:
            starting = None
            # Full collections skip frozen objects. Those of the start are many and live on.
            gc.freeze()
            _LOGGER.info("listening on %s", address)
            _log_next_steps(settings, address)
            await stopping.wait()
            _LOGGER.info(
                "shutting down: callers have %g s to leave, then running calls %g s to finish",
                settings.shutdown_drain_seconds,
                settings.shutdown_grace_seconds,
            )
    except asyncio.CancelledError:
        if not stopping.is_set():
            raise
    await wait_for_ended_calls()
    _LOGGER.info("stopped")


def _log_next_steps(settings: Settings, address: str) -> None:
    if settings.reflection and not (settings.tls_key or is_unix(address)):
        _LOGGER.info("next: grpcurl -plaintext %s list", address)
    _LOGGER.info("next: %s --help", running_command())


@asynccontextmanager
async def running(settings: Settings, database_url: str) -> AsyncIterator[str]:
    """Run the service during the block, and yield the address on which it listens.

    Raises:
        CredentialsUnusable: A file or URL of the settings cannot be read or is invalid.
        DatabaseUnusable: The database stays unreachable, refuses the user, was migrated
            differently, or lacks rights or the configured search language.
        DatabaseTooNew: The database belongs to a newer Palaver.
        RuntimeError: The address is in use.
    """
    security = await Security.load(settings)
    await prepare_schema(settings, database_url)
    database_url = with_timeouts(database_url)
    await check_language(database_url, settings.search_language, read_only=settings.read_only)
    # The exit stack stops these in reverse start order.
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        telemetry = await enter(open_telemetry())
        pool = await enter(open_pool(settings, database_url, telemetry.trace_statement))
        embedding = await enter(
            open_embedding(settings, database_url, pool, read_only=settings.read_only)
        )
        reading = await enter(open_reading(settings, database_url, pool, telemetry.trace_statement))
        pools = (pool, *embedding.own_pools, *reading.own_pools)
        health_servicer = HealthService()
        database_health = await enter(
            open_database_health(
                settings,
                database_url,
                pools,
                health_servicer,
                uses_vectors=isinstance(embedding.search, SemanticSearch),
            )
        )
        purger = build_purger(settings, pool)
        add_metrics(
            telemetry, settings, pool, reading, purger, embedding, database_health, security
        )
        running_calls = RunningCalls(
            default_deadline_seconds=settings.default_deadline_seconds,
            send_timeout_seconds=settings.stream_send_timeout_seconds,
        )
        chain = InterceptorChain(
            interceptors(settings, telemetry, security, running_calls),
            max_metadata_bytes=settings.max_metadata_bytes,
        )
        max_connections = _max_connections(settings)
        server = grpc.aio.server(options=connection_options(settings, max_connections))
        ours = palaver_methods(chain, settings, pool, reading.reader, purger, embedding)
        server.add_generic_rpc_handlers((ours, grpc_methods(settings, health_servicer)))
        port = security.add_port(server, settings.listen)
        await database_health.check()
        tasks = (
            *telemetry.start(),
            *security.watch(),
            *_unused_connections(security, port, max_connections),
            *scheduled_purges(settings, purger),
            *([reading.standby.watch()] if reading.standby else []),
            database_health.watch(),
            embedding.worker.run(),
            trim_memory(),
        )
        await enter(in_background(tasks))
        await enter(started(server, settings, health_servicer, running_calls))
        yield with_port(settings.listen, port)


def interceptors(
    settings: Settings, telemetry: Telemetry, security: Security, running_calls: RunningCalls
) -> tuple[Interceptor, ...]:
    """Build the interceptors of every call, outermost first."""
    return (
        telemetry.observation,  # outermost: it records the status that the others produce
        ErrorMapping(),
        # Outside of the following ones: authentication and waiting for a slot take time too.
        running_calls,
        SendTimeout(seconds=settings.stream_send_timeout_seconds),
        *security.interceptors,
        *((ReadOnly(),) if settings.read_only else ()),
        ConcurrencyLimit(
            running=settings.max_running_calls,
            waiting=settings.max_waiting_calls,
            streams=settings.max_streams,
        ),
        RequestBytes(
            settings.max_request_bytes_in_flight or default_request_bytes(settings.workers),
            seconds=settings.default_deadline_seconds,
        ),
        ResponseBytes(
            settings.max_response_bytes_in_flight or default_response_bytes(settings.workers),
            stream_wait_seconds=settings.default_deadline_seconds,
            max_metadata_bytes=settings.max_metadata_bytes,
        ),
        MicroBatching(),
    )


def _unused_connections(
    security: Security, port: int, max_connections: int
) -> Iterator[Coroutine[Any, Any, None]]:
    """Yield the background task that closes unauthenticated connections, if there are others."""
    if security.authenticated_peers is not None:
        yield UnusedConnections(
            port, max_connections=max_connections, authenticated=security.authenticated_peers
        ).watch()


def connection_options(settings: Settings, max_connections: int) -> tuple[tuple[str, int], ...]:
    """Return gRPC's options for the connection limits in the settings, and this number."""
    limits = ConnectionLimits(
        max_connections=max_connections,
        keepalive_seconds=settings.keepalive_seconds,
        idle_seconds=settings.connection_idle_seconds,
        age_seconds=settings.connection_age_seconds,
        grace_seconds=settings.connection_grace_seconds,
    )
    return server_options(limits, share_port=not is_unix(settings.listen))


def _max_connections(settings: Settings) -> int:
    """Return how many clients may connect, so that the server never runs out of descriptors."""
    descriptors = raise_limit()
    of_pools = settings.pool_max_size * (2 if settings.read_database_url else 1)
    admitted = max(descriptors - of_pools - _OWN_DESCRIPTORS, 1)
    if admitted < settings.max_connections:
        _LOGGER.warning(
            "the limit of open files (%d) leaves room for %d connections of clients instead of %d"
            " (PALAVER_MAX_CONNECTIONS); further ones are closed; raise it with ulimit -n",
            descriptors,
            admitted,
            settings.max_connections,
        )
    return min(admitted, settings.max_connections)


def build_purger(settings: Settings, pool: Pool) -> Purger:
    """Build the purger with the configured retentions and batch size."""
    return Purger(
        PurgeStore(pool),
        retention=settings.purge_retention,
        batch_size=settings.purge_batch_size,
        session_retention=settings.session_retention,
    )


def scheduled_purges(settings: Settings, purger: Purger) -> Iterator[Coroutine[Any, Any, None]]:
    """Yield the background task that purges at the configured interval, if there is one."""
    if settings.purge_interval and not settings.read_only:
        yield purger.run_every(settings.purge_interval)


@asynccontextmanager
async def open_database_health(
    settings: Settings,
    database_url: str,
    pools: tuple[Pool, ...],
    servicer: HealthService,
    *,
    uses_vectors: bool,
) -> AsyncIterator[DatabaseHealth]:
    """Build the check behind all services' health, and close its connection after the block."""
    database_health = DatabaseHealth(
        servicer,
        database_url,
        pools,
        services=SERVICES,
        tables=(
            *(READ_TABLES if settings.read_only else WRITTEN_TABLES),
            *(VECTOR_TABLES if uses_vectors else ()),
        ),
        uses_vectors=uses_vectors,
        interval=settings.health_interval_seconds,
        read_only=settings.read_only,
    )
    try:
        yield database_health
    finally:
        await database_health.close()


@asynccontextmanager
async def started(
    server: grpc.aio.Server,
    settings: Settings,
    health_servicer: HealthService,
    running_calls: RunningCalls,
) -> AsyncIterator[None]:
    """Start a server, and shut it down gracefully after the block."""
    try:
        await server.start()
        yield
    finally:
        await shut_down(
            server,
            health_servicer,
            running_calls,
            drain=settings.shutdown_drain_seconds,
            grace=settings.shutdown_grace_seconds,
        )
