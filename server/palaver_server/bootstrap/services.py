"""The services of a server, and their registration."""

from typing import Any

from grpc_health.v1 import health, health_pb2

from palaver.v1 import (
    admin_service_pb2,
    memory_service_pb2,
    session_service_pb2,
    user_service_pb2,
)
from palaver_server.bootstrap.embedding import EmbeddingComponents
from palaver_server.config import Settings
from palaver_server.database.pool import Pool
from palaver_server.database.reader import Reader
from palaver_server.interceptors.chain import InterceptorChain
from palaver_server.interceptors.decoding import RequestDecoder
from palaver_server.purge.purger import Purger
from palaver_server.search.keyword_index import KeywordIndex
from palaver_server.search.reindexing import Reindexer
from palaver_server.search.searcher import Searcher
from palaver_server.services.admin_service import AdminService
from palaver_server.services.encoding.metadata import struct_size
from palaver_server.services.memory_service import MemoryService
from palaver_server.services.session_service import SessionService
from palaver_server.services.user_service import UserService
from palaver_server.store.memory import MemoryStore
from palaver_server.store.messages import MessageStore
from palaver_server.store.sessions import SessionStore
from palaver_server.store.users import UserStore
from palaver_server.transport.method_router import MethodRouter
from palaver_server.transport.reflection_service import V1_NAME, V1ALPHA, ReflectionService

_SESSIONS = session_service_pb2.DESCRIPTOR.services_by_name["SessionService"]
_MEMORY = memory_service_pb2.DESCRIPTOR.services_by_name["MemoryService"]
_USERS = user_service_pb2.DESCRIPTOR.services_by_name["UserService"]
_ADMIN = admin_service_pb2.DESCRIPTOR.services_by_name["AdminService"]
# Any: the stubs of this package have another class for descriptors.
_HEALTH: Any = health_pb2.DESCRIPTOR.services_by_name["Health"]

DESCRIPTORS = (_SESSIONS, _MEMORY, _USERS, _ADMIN)
SERVICES = tuple(service.full_name for service in DESCRIPTORS)


def palaver_methods(  # noqa: PLR0913, PLR0917
    chain: InterceptorChain,
    settings: Settings,
    pool: Pool,
    reader: Reader,
    purger: Purger,
    embedding: EmbeddingComponents,
) -> MethodRouter:
    """Register Palaver's services behind the chain of interceptors."""
    router = MethodRouter(chain.wrap)
    language, filter_timeout = settings.search_language, settings.filter_timeout_seconds
    sessions = SessionStore(pool, reader, filter_timeout=filter_timeout)
    users = UserStore(pool, reader, filter_timeout=filter_timeout)
    memory_service = MemoryService(
        sessions,
        MemoryStore(
            pool,
            embedding.queue,
            reader,
            language=language,
            filter_timeout=filter_timeout,
            metadata_size=struct_size,
        ),
        MessageStore(
            pool, embedding.queue, reader, language=language, filter_timeout=filter_timeout
        ),
        Searcher(
            reader, embedding.search, language=language, timeout=settings.search_timeout_seconds
        ),
        window=settings.memory_window,
        max_metadata_bytes=settings.max_metadata_bytes,
    )
    reindexer = Reindexer(KeywordIndex(pool, language), embedding.worker)
    admin_service = AdminService(purger, reindexer)
    router.add_service(
        _SESSIONS, SessionService(sessions, max_metadata_bytes=settings.max_metadata_bytes)
    )
    router.add_service(_MEMORY, memory_service)
    router.add_service(_USERS, UserService(users, max_metadata_bytes=settings.max_metadata_bytes))
    router.add_service(_ADMIN, admin_service)
    return router


def grpc_methods(settings: Settings, health_servicer: health.aio.HealthServicer) -> MethodRouter:
    """Register gRPC's own services: health and, if configured, reflection.

    They bypass the chain of interceptors: load balancers call them without credentials.
    """
    decoder = RequestDecoder(seconds=settings.default_deadline_seconds)
    router = MethodRouter(decoder.wrap)
    router.add_service(_HEALTH, health_servicer)
    if settings.reflection:
        servicer = ReflectionService((*SERVICES, health.SERVICE_NAME))
        router.add_service(V1ALPHA, servicer)
        router.add_service(V1ALPHA, servicer, name=V1_NAME)
    return router
