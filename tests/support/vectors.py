"""Messages with vectors, for tests of vector search."""

from collections.abc import Sequence
from typing import Any

from palaver_server.auth.access import EVERYTHING, Access
from palaver_server.database.pool import Pool
from palaver_server.embedding.backlog import EmbeddingBacklog
from palaver_server.embedding.embedders.embedder import normalized
from palaver_server.embedding.models import VectorSpace, prepare_model
from palaver_server.embedding.vector_store import Similarities, VectorStore
from palaver_server.search.keyword_store import Hit, KeywordQuery
from palaver_server.search.result_store import ResultStore
from palaver_server.store.embedding_queue import EmbeddingQueue
from palaver_server.store.memory import MemoryStore, NewMessage
from palaver_server.store.message_filter import ALL_MESSAGES, Scope
from palaver_server.store.messages import MessageKey, MessageStore, Selection
from tests.conftest import Run
from tests.support.endpoint import DIMENSIONS, vector_of
from tests.support.rows import accept
from tests.support.searching import snapshot

NO_KEYWORDS = KeywordQuery(
    language="english", terms=[], match="", any_term="", is_plain=True, grams=[]
)

QUEUE = EmbeddingQueue(is_used=True)


def embed(text: str) -> list[float]:
    """Return the vector of a text."""
    return normalized(vector_of(text))


def of_user(content: str) -> str:
    """Return the text that is embedded for a message of the role `user`."""
    return f"user: {content}"


class Vectors:
    """The stores of a database, and an embedder that runs when a test asks for it."""

    def __init__(self, pool: Pool, run: Run, *, model: str = "test") -> None:
        self._run = run
        self.pool = pool
        self.space: VectorSpace = run(prepare_model(pool, model, DIMENSIONS))
        self.memory = MemoryStore(pool, QUEUE)
        self.messages = MessageStore(pool, QUEUE)
        self.backlog = EmbeddingBacklog(pool, self.space, max_characters=100)

    def add(self, session_id: str, *contents: str, user_id: str | None = None, **ids: str) -> None:
        """Add messages; the names of keyword arguments are their ids."""
        given = [(None, content) for content in contents] + list(ids.items())
        messages = [NewMessage(name, "user", text, 0, "{}", None) for name, text in given]
        self._run(self.memory.add_memory(EVERYTHING, session_id, messages, user_id=user_id))

    def update(self, session_id: str, message_id: str, content: str) -> None:
        """Change the content of a message."""
        self._run(
            self.messages.update_message(
                EVERYTHING, session_id, message_id, lambda row: row._replace(content=content)
            )
        )

    def delete(self, session_id: str, *message_ids: str) -> None:
        """Delete messages."""
        self._run(
            self.messages.delete_messages(
                EVERYTHING, session_id, Selection(message_ids=message_ids), accept
            )
        )

    def embed_all(self) -> int:
        """Embed until no message is queued; return how many were embedded."""
        return self._run(self._embed_all())

    async def _embed_all(self) -> int:
        count = 0
        while True:
            async with self.backlog.batch(10) as batch:
                count += len(batch.messages)
                if not await batch.finish([embed(message.text) for message in batch.messages]):
                    return count

    def find(self, text: str, *, access: Access = EVERYTHING, **narrowed: Any) -> list[str]:
        """Return the contents nearest to a text of the role `user`, the nearest first."""
        similarities = self.neighbours(text, access=access, **narrowed)
        hits = [Hit(key, near) for key, near in similarities.items()]

        async def contents() -> list[str]:
            async with self.pool.connection() as connection:
                results = await ResultStore(connection).get_messages(access, hits, NO_KEYWORDS)
            return [result.message.content for result in results]

        return self._run(contents())

    def neighbours(
        self,
        text: str,
        *,
        access: Access = EVERYTHING,
        limit: int = 10,
        scope: Scope = ALL_MESSAGES,
        **narrowed: Any,
    ) -> Similarities:
        """Return the similarities of messages to a text of the role `user`, the nearest first."""
        vector = embed(of_user(text))

        async def nearest() -> Similarities:
            async with snapshot(self.pool, scope, access) as connection:
                store = VectorStore(connection, self.space)
                return await store.nearest(access, vector, limit=limit, scope=scope, **narrowed)

        return self._run(nearest())

    def similarities(self, text: str, keys: Sequence[MessageKey]) -> Similarities:
        """Return the similarities of some messages to a text of the role `user`."""
        vector = embed(of_user(text))

        async def get() -> Similarities:
            async with self.pool.connection() as connection:
                store = VectorStore(connection, self.space)
                return await store.get_similarities(EVERYTHING, vector, keys)

        return self._run(get())

    def count(self, table: str) -> int:
        """Count the rows of a table."""

        async def count() -> int:
            async with self.pool.connection() as connection:
                cursor = await connection.execute(f"SELECT count(*) FROM {table}")
                (number,) = await cursor.fetchone() or (0,)
                return int(number)

        return self._run(count())
