"""The composition root: pool, stores, services, server; start and shutdown."""

import asyncio
import gc
import logging
import signal
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from palaver.v1 import (
    admin_service_pb2,
    admin_service_pb2_grpc,
    memory_service_pb2,
    memory_service_pb2_grpc,
    session_service_pb2,
    session_service_pb2_grpc,
    user_service_pb2,
    user_service_pb2_grpc,
)
from palaver_server.addresses import is_unix, with_port
from palaver_server.bootstrap.embedding import Semantics, prepared_semantics
from palaver_server.bootstrap.security import Security
from palaver_server.config import DatabaseSettings, Settings
from palaver_server.database.migrate import migrate
from palaver_server.database.pool import Pool
from palaver_server.database.url import with_timeouts
from palaver_server.interceptors.chain import Interceptor, InterceptorChain
from palaver_server.interceptors.concurrency_limit import ConcurrencyLimit
from palaver_server.interceptors.deadlines import Deadlines
from palaver_server.interceptors.decoding import decoding
from palaver_server.interceptors.error_mapping import ErrorMapping
from palaver_server.interceptors.micro_batching import MicroBatching
from palaver_server.interceptors.running_calls import RunningCalls
from palaver_server.interceptors.stream_send_timeout import StreamSendTimeout
from palaver_server.process.memory_trim import trim_memory
from palaver_server.purge.purge_store import PurgeStore
from palaver_server.purge.purger import Purger
from palaver_server.search.keyword_index import WordIndex, check_language
from palaver_server.search.keyword_store import WordStore
from palaver_server.search.reindexing import Reindexer
from palaver_server.search.result_store import FoundStore
from palaver_server.search.searcher import Searcher
from palaver_server.services.admin_service import AdminService
from palaver_server.services.memory_service import MemoryService
from palaver_server.services.session_service import SessionService
from palaver_server.services.user_service import UserService
from palaver_server.store.memory import MemoryStore
from palaver_server.store.messages import MessageStore
from palaver_server.store.sessions import SessionStore
from palaver_server.store.users import UserStore
from palaver_server.telemetry.telemetry import Telemetry
from palaver_server.transport.database_health import DatabaseHealth
from palaver_server.transport.health_service import HealthService
from palaver_server.transport.method_router import Methods
from palaver_server.transport.server_options import ConnectionLimits, server_options
from palaver_server.transport.shutdown import shut_down

_LOGGER = logging.getLogger(__name__)

_DESCRIPTORS = tuple(
    service
    for file in (session_service_pb2, memory_service_pb2, user_service_pb2, admin_service_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
)
SERVICES = tuple(service.full_name for service in _DESCRIPTORS)


def interceptors(
    settings: Settings, telemetry: Telemetry, security: Security, running_calls: RunningCalls
) -> tuple[Interceptor, ...]:
    """Makes the interceptors of a server, outermost first."""
    return (
        telemetry.observation,  # sees the status that the others lead to
        ErrorMapping(),
        # Outside of the following ones: authentication and waiting for a slot take time too.
        Deadlines(running_calls, default_seconds=settings.default_deadline_seconds),
        StreamSendTimeout(running_calls, seconds=settings.reader_patience_seconds),
        *security.interceptors,
        ConcurrencyLimit(
            running=settings.max_running_calls,
            waiting=settings.max_waiting_calls,
            streams=settings.max_streams,
        ),
        MicroBatching(),
    )


def connection_options(settings: Settings) -> tuple[tuple[str, int], ...]:
    """Return gRPC's options for the connection limits in the settings."""
    limits = ConnectionLimits(
        max_connections=settings.max_connections,
        keepalive_seconds=settings.keepalive_seconds,
        idle_seconds=settings.connection_idle_seconds,
        age_seconds=settings.connection_age_seconds,
        grace_seconds=settings.connection_grace_seconds,
    )
    return server_options(limits, share_port=settings.workers > 1)


_SECONDS_TO_CONNECT = 30.0


async def prepare(settings: DatabaseSettings, database_url: str) -> list[str]:
    """Makes a database ready for the service; gives the names of the migrations that were run.

    Raises:
        DatabaseUnusable: The database is away, refuses the user, or lacks rights.
        DatabaseTooNew: The database is from a newer Palaver.
    """
    database_url = with_timeouts(database_url)
    names = await migrate(database_url)
    pool = Pool(database_url, min_size=1, max_size=1, timeout=_SECONDS_TO_CONNECT)
    await pool.open()
    try:
        async with prepared_semantics(settings, database_url, pool):
            return names
    finally:
        await pool.close()


@asynccontextmanager
async def running(settings: Settings, database_url: str) -> AsyncIterator[str]:
    """Runs the service in the block; gives the address on which it listens.

    Raises:
        CredentialsUnusable: A file or URL of the settings cannot be read, or is no good.
        DatabaseUnusable: The database is away, refuses the user, or lacks rights or the
            language of searches.
        DatabaseTooNew: The database is from a newer Palaver.
        RuntimeError: The address is in use.
    """
    security = await Security.load(settings)
    database_url = with_timeouts(database_url)
    await migrate(database_url)
    await check_language(database_url, settings.search_language)
    # Whatever is begun here is ended in the opposite order.
    async with AsyncExitStack() as stack:
        telemetry = Telemetry()
        stack.push_async_callback(telemetry.stop)
        pool = _pool(settings, database_url, telemetry)
        await pool.open()
        stack.push_async_callback(pool.close)
        semantics = await stack.enter_async_context(
            prepared_semantics(settings, database_url, pool)
        )
        purger = Purger(
            PurgeStore(pool),
            retention=settings.purge_retention,
            batch_size=settings.purge_batch_size,
        )
        health_servicer = HealthService()
        database_health = DatabaseHealth(
            health_servicer,
            database_url,
            (pool, *semantics.own_pools),
            services=SERVICES,
            interval=settings.health_interval_seconds,
        )
        stack.push_async_callback(database_health.close)
        if settings.metrics_listen:
            telemetry.measure(
                settings.metrics_listen,
                services=_DESCRIPTORS,
                pool_stats=pool.stats,
                is_serving=lambda: database_health.is_serving,
                backlogs={"purge": purger.backlog, "embedding": semantics.embedding.backlog},
            )
        running_calls = RunningCalls()
        chain = InterceptorChain(interceptors(settings, telemetry, security, running_calls))
        ours, grpcs = Methods(chain.wrap), Methods(decoding)
        add_services(ours, settings, pool, purger=purger, semantics=semantics)
        add_grpc_services(grpcs, settings, health_servicer)
        server = grpc.aio.server(options=connection_options(settings))
        server.add_generic_rpc_handlers((ours, grpcs))
        port = security.add_port(server, settings.listen)
        await database_health.check()
        work = [
            *telemetry.start(),
            database_health.watch(),
            *(watched.watch() for watched in security.watched),
            semantics.embedding.run(),
            trim_memory(),
        ]
        if settings.purge_interval:
            work.append(purger.run_every(settings.purge_interval))
        await stack.enter_async_context(_in_background(work))
        stack.push_async_callback(
            shut_down,
            server,
            health_servicer,
            running_calls,
            drain=settings.shutdown_drain_seconds,
            grace=settings.shutdown_grace_seconds,
        )
        await server.start()
        yield with_port(settings.listen, port)


def _pool(settings: Settings, database_url: str, telemetry: Telemetry) -> Pool:
    return Pool(
        database_url,
        min_size=settings.pool_min_size,
        max_size=settings.pool_max_size,
        timeout=settings.pool_timeout_seconds,
        statement_timeout=settings.statement_timeout_seconds,
        trace=telemetry.trace_statement,
        search_language=settings.search_language,
        search_timeout=settings.search_timeout_seconds,
    )


@asynccontextmanager
async def _in_background(work: Iterable[Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """Runs work beside the block; that it ends by itself is a bug, and logged."""

    def log_failure(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()):
            _LOGGER.error("%s ended", task.get_coro(), exc_info=error)

    tasks = [asyncio.create_task(each) for each in work]
    for task in tasks:
        task.add_done_callback(log_failure)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def add_services(
    methods: Any, settings: Settings, pool: Pool, *, purger: Purger, semantics: Semantics
) -> None:
    """Adds every service of ours."""
    sessions = SessionStore(pool)
    session_service_pb2_grpc.add_SessionServiceServicer_to_server(SessionService(sessions), methods)
    memory_service_pb2_grpc.add_MemoryServiceServicer_to_server(
        MemoryService(
            sessions,
            MemoryStore(pool, semantics.queue),
            MessageStore(pool, semantics.queue),
            Searcher(
                WordStore(pool),
                FoundStore(pool),
                semantics.search,
            ),
            window=settings.memory_window,
        ),
        methods,
    )
    user_service_pb2_grpc.add_UserServiceServicer_to_server(UserService(UserStore(pool)), methods)
    admin_service_pb2_grpc.add_AdminServiceServicer_to_server(
        AdminService(purger, Reindexer(WordIndex(pool), semantics.embedding)), methods
    )


def add_grpc_services(
    methods: Any, settings: Settings, health_servicer: health.aio.HealthServicer
) -> None:
    """Adds those of gRPC's own services that the server has."""
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, methods)
    if settings.reflection:
        shown = (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
        add_reflection: Any = reflection_pb2_grpc.add_ServerReflectionServicer_to_server
        add_reflection(reflection.aio.ReflectionServicer(shown), methods)


async def serve(settings: Settings, database_url: str) -> None:
    """Runs the service until SIGTERM or SIGINT; then lets running calls finish."""
    starting = asyncio.current_task()
    stopping = asyncio.Event()

    def stop() -> None:
        stopping.set()
        if starting:
            starting.cancel()  # a database that does not answer may keep it waiting

    for signal_number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signal_number, stop)
    try:
        async with running(settings, database_url) as address:
            starting = None
            # Or each full collection would look again at all that the start has made.
            gc.freeze()
            _LOGGER.info("listening on %s", address)
            if settings.reflection and not (settings.tls_key or is_unix(address)):
                _LOGGER.info("next: grpcurl -plaintext %s list", address)
            await stopping.wait()
            _LOGGER.info("shutting down")
    except asyncio.CancelledError:
        if not stopping.is_set():
            raise
    _LOGGER.info("stopped")
