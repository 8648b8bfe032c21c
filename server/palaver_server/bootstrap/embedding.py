"""What the server has of semantic search: all of it, or the reason why not."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from palaver_server.bootstrap.embedder_choice import chosen_embedder
from palaver_server.config import DatabaseSettings
from palaver_server.database.pool import Pool
from palaver_server.embedding.backlog import EmbeddingBacklog
from palaver_server.embedding.embedders.embedder import MAX_CHARACTERS, Embedder
from palaver_server.embedding.models import VectorSpace, prepare_model
from palaver_server.embedding.semantic_search import NoSemanticSearch, SemanticSearch
from palaver_server.embedding.vector_store import EmbeddingStore
from palaver_server.embedding.worker import Embedding, NoEmbedding
from palaver_server.errors import VectorsUnusable
from palaver_server.store.embedding_queue import NO_QUEUE, EmbeddingQueue

_LOGGER = logging.getLogger(__name__)

# One for the batch at hand, which may take as long as an endpoint does, and one to see how
# far a reindex is. Calls need not wait for them.
_CONNECTIONS = 2

_SECONDS_TO_CONNECT = 30.0

# What the endpoint takes for a batch is a pause in a transaction; the locks that it holds
# meanwhile are in nobody's way.
_LONGEST_SECONDS = 3600.0


class Semantics(NamedTuple):
    """The parts of semantic search that others are given.

    Attributes:
        own_pools: Database connections that no others use.
    """

    own_pools: tuple[Pool, ...]
    queue: EmbeddingQueue
    search: SemanticSearch | NoSemanticSearch
    embedding: Embedding | NoEmbedding


@asynccontextmanager
async def prepared_semantics(
    settings: DatabaseSettings, database_url: str, pool: Pool
) -> AsyncIterator[Semantics]:
    """Makes the database ready for the embedder of the settings, and gives what there is.

    Where the database cannot keep vectors, that is logged, and the rest of the service runs.
    """
    embedder = chosen_embedder(settings)
    if embedder is None:
        yield _without("the server has no embedder: set PALAVER_EMBEDDER")
        return
    try:
        space = await prepare_model(pool, embedder.model, embedder.dimensions)
    except VectorsUnusable as error:
        _LOGGER.warning("no semantic search: %s", error)
        yield _without(str(error))
        return
    own_pool = Pool(
        database_url,
        min_size=0,
        max_size=_CONNECTIONS,
        timeout=_SECONDS_TO_CONNECT,
        statement_timeout=_LONGEST_SECONDS,
    )
    await own_pool.open()
    try:
        yield _with(embedder, space, pool, own_pool)
    finally:
        await own_pool.close()
        await embedder.close()


def _with(embedder: Embedder, space: VectorSpace, pool: Pool, own_pool: Pool) -> Semantics:
    queue = EmbeddingQueue(is_used=True)
    backlog = EmbeddingBacklog(own_pool, space, max_characters=MAX_CHARACTERS)
    return Semantics(
        (own_pool,),
        queue,
        SemanticSearch(embedder, EmbeddingStore(pool, space)),
        Embedding(embedder, backlog, queue),
    )


def _without(reason: str) -> Semantics:
    return Semantics((), NO_QUEUE, NoSemanticSearch(reason), NoEmbedding())
