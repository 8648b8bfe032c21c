"""The components of embedding: built from the settings, or left out with the reason."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import NamedTuple

from palaver_server.bootstrap.database import migration_url, opened
from palaver_server.config import DatabaseSettings
from palaver_server.database.pool import Pool, PreparedStatements
from palaver_server.embedding.backlog import EmbeddingBacklog
from palaver_server.embedding.embedders.embedder import MAX_CHARACTERS, Embedder
from palaver_server.embedding.embedders.wordllama import WordLlamaEmbedder
from palaver_server.embedding.models import VectorSpace, find_model, prepare_model
from palaver_server.embedding.semantic_search import NoSemanticSearch, SemanticSearch
from palaver_server.embedding.worker import EmbeddingWorker, NoEmbeddingWorker
from palaver_server.errors import VectorsUnusable
from palaver_server.store.embedding_queue import NO_QUEUE, EmbeddingQueue

_LOGGER = logging.getLogger(__name__)

# One for the current batch, whose transaction lasts as long as the endpoint takes, and one for
# the progress of a reindex. Calls never wait for these connections.
_POOL_MAX_SIZE = 2

_CONNECT_TIMEOUT_SECONDS = 30.0

# A batch's transaction is idle while the endpoint answers. The timeout of the calls' statements
# would end it, and its row locks block no call.
_STATEMENT_TIMEOUT_SECONDS = 3600.0


class EmbeddingComponents(NamedTuple):
    """The parts of embedding that other components use.

    Attributes:
        own_pools: Database connections that only embedding uses.
        queue: The outbox that writes fill.
        search: Semantic search, or the stand-in that refuses it with the reason.
        worker: The worker that embeds queued messages, or its stand-in.
    """

    own_pools: tuple[Pool, ...]
    queue: EmbeddingQueue
    search: SemanticSearch | NoSemanticSearch
    worker: EmbeddingWorker | NoEmbeddingWorker


@asynccontextmanager
async def open_embedding(
    settings: DatabaseSettings, database_url: str, pool: Pool, *, read_only: bool = False
) -> AsyncIterator[EmbeddingComponents]:
    """Prepare the database for the configured embedder, and yield the components.

    A database that cannot store vectors is logged, and the components are left out: the rest of
    the service runs without them.

    If `read_only`, nothing is created, and no messages are embedded.
    """
    embedder = build_embedder(settings)
    if embedder is None:
        yield _left_out("the server has no embedder: set PALAVER_EMBEDDER")
        return
    try:
        if (
            settings.migration_database_url and not read_only
        ):  # its user owns the schema, or may create the table
            await _prepare_as_owner(migration_url(settings, database_url), embedder)
        prepare = find_model if read_only else prepare_model
        space = await prepare(pool, embedder.model, embedder.dimensions)
    except VectorsUnusable as error:
        _LOGGER.warning("semantic search is off: %s", error)
        yield _left_out(str(error))
        return
    own_pool = Pool(
        database_url,
        min_size=0,
        max_size=_POOL_MAX_SIZE,
        timeout=_CONNECT_TIMEOUT_SECONDS,
        statement_timeout=_STATEMENT_TIMEOUT_SECONDS,
        prepared_statements=PreparedStatements(settings.prepared_statements),
    )
    async with opened(own_pool):
        try:
            components = _build(settings, embedder, space, own_pool)
            yield components._replace(worker=NoEmbeddingWorker()) if read_only else components
        finally:
            await embedder.close()


async def _prepare_as_owner(url: str, embedder: Embedder) -> None:
    pool = Pool(url, min_size=0, max_size=1, timeout=_CONNECT_TIMEOUT_SECONDS)
    async with opened(pool):
        await prepare_model(pool, embedder.model, embedder.dimensions)


def build_embedder(settings: DatabaseSettings) -> Embedder | None:
    """Build the configured embedder, or return None if the server embeds nothing."""
    match settings.embedder:
        case "openai":
            return _build_endpoint(settings)
        case "wordllama":
            return WordLlamaEmbedder()
        case "auto" if find_spec("wordllama"):
            return WordLlamaEmbedder()
        case _:
            return None


def _build_endpoint(settings: DatabaseSettings) -> Embedder:
    # Imported here: its HTTP client takes long to load, and most servers use no endpoint.
    from palaver_server.embedding.embedders.endpoint import EndpointEmbedder  # noqa: PLC0415

    key = settings.embedder_key
    return EndpointEmbedder(
        url=settings.embedder_url or "",
        model=settings.embedder_model or "",
        key=key.get_secret_value() if key else "",
        dimensions=settings.embedder_dimensions or 0,
        timeout=settings.embedder_timeout_seconds,
    )


def _build(
    settings: DatabaseSettings, embedder: Embedder, space: VectorSpace, own_pool: Pool
) -> EmbeddingComponents:
    queue = EmbeddingQueue(is_used=True)
    backlog = EmbeddingBacklog(own_pool, space, max_characters=MAX_CHARACTERS)
    return EmbeddingComponents(
        (own_pool,),
        queue,
        SemanticSearch(embedder, space, timeout=settings.embedder_query_timeout_seconds),
        EmbeddingWorker(embedder, backlog, queue),
    )


def _left_out(reason: str) -> EmbeddingComponents:
    return EmbeddingComponents((), NO_QUEUE, NoSemanticSearch(reason), NoEmbeddingWorker())
