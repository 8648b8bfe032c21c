"""Searches, and the messages they search."""

from contextlib import AbstractAsyncContextManager
from typing import Any

from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import SearchMemoryRequest, SearchMemoryResponse
from palaver_server.auth.access import EVERYTHING, Access
from palaver_server.database.connection import Connection
from palaver_server.database.pool import Pool
from palaver_server.embedding.semantic_search import NoSemanticSearch
from palaver_server.search.searcher import Searcher
from palaver_server.store.message_filter import ALL_MESSAGES, Scope
from tests.support.client import Client

KEYWORD = SearchMemoryRequest.KEYWORD


def snapshot(
    pool: Pool, scope: Scope = ALL_MESSAGES, access: Access = EVERYTHING
) -> AbstractAsyncContextManager[Connection]:
    """Check out a connection as a search does."""
    searcher = Searcher(pool, NoSemanticSearch("it is not needed"))
    return pool.connection(access.principal, snapshot=searcher._setup_of(access, scope))


def search(palaver: Client, text: str = "", **fields: Any) -> SearchMemoryResponse:
    """Search by keywords, unless `mode` says otherwise."""
    return palaver.memory.SearchMemory(
        SearchMemoryRequest(**{"text": text, "mode": KEYWORD, **fields})
    )


def found(palaver: Client, text: str = "", **fields: Any) -> list[str]:
    """Return the contents that a search finds, in order."""
    return [result.message.content for result in search(palaver, text, **fields).results]


def say(palaver: Client, session_id: str, *turns: tuple[str, str], user_id: str = "") -> None:
    """Add messages, each with a role and a content, which is its id too."""
    messages = [Message(message_id=content, role=role, content=content) for role, content in turns]
    palaver.add_memory(session_id, messages, user_id=user_id)
