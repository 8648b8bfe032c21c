"""The services of a server, and their registration."""

from typing import Any

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
from palaver_server.bootstrap.embedding import EmbeddingComponents
from palaver_server.config import Settings
from palaver_server.database.pool import Pool
from palaver_server.interceptors.chain import InterceptorChain
from palaver_server.interceptors.decoding import decoding
from palaver_server.purge.purger import Purger
from palaver_server.search.keyword_index import KeywordIndex
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
from palaver_server.transport.method_router import Methods

DESCRIPTORS = tuple(
    service
    for file in (session_service_pb2, memory_service_pb2, user_service_pb2, admin_service_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
)
SERVICES = tuple(service.full_name for service in DESCRIPTORS)


def palaver_methods(
    chain: InterceptorChain,
    settings: Settings,
    pool: Pool,
    purger: Purger,
    embedding: EmbeddingComponents,
) -> Methods:
    """Register Palaver's services behind the chain of interceptors."""
    methods = Methods(chain.wrap)
    sessions = SessionStore(pool)
    memory_service = MemoryService(
        sessions,
        MemoryStore(pool, embedding.queue),
        MessageStore(pool, embedding.queue),
        Searcher(WordStore(pool), FoundStore(pool), embedding.search),
        window=settings.memory_window,
    )
    admin_service = AdminService(purger, Reindexer(KeywordIndex(pool), embedding.embedding))
    server: Any = methods  # the stubs' type for it is grpc.Server
    session_service_pb2_grpc.add_SessionServiceServicer_to_server(SessionService(sessions), server)
    memory_service_pb2_grpc.add_MemoryServiceServicer_to_server(memory_service, server)
    user_service_pb2_grpc.add_UserServiceServicer_to_server(UserService(UserStore(pool)), server)
    admin_service_pb2_grpc.add_AdminServiceServicer_to_server(admin_service, server)
    return methods


def grpc_methods(settings: Settings, health_servicer: health.aio.HealthServicer) -> Methods:
    """Register gRPC's own services: health and, if configured, reflection.

    They bypass the chain of interceptors: load balancers call them without credentials.
    """
    methods = Methods(decoding)
    server: Any = methods
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    if settings.reflection:
        names = (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
        add_reflection: Any = reflection_pb2_grpc.add_ServerReflectionServicer_to_server
        add_reflection(reflection.aio.ReflectionServicer(names), server)
    return methods
