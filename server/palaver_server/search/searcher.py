"""The search: composes keyword search, semantic search and diversity in one snapshot."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from itertools import repeat
from typing import NamedTuple

from palaver_server.auth.access import Access
from palaver_server.database.connection import Connection
from palaver_server.database.metadata_path import checked_path
from palaver_server.database.reader import Reader, T, Work
from palaver_server.database.statement import set_timeout
from palaver_server.embedding.semantic_search import EmbeddedText, NoSemanticSearch, SemanticSearch
from palaver_server.errors import PalaverError
from palaver_server.offload import MAX_INLINE_BYTES, offload_each
from palaver_server.search.diversity import diverse
from palaver_server.search.keyword_store import Hit, KeywordQuery, KeywordStore
from palaver_server.search.result_store import FoundMessage, ResultStore
from palaver_server.search.snippet import snippet
from palaver_server.store.message_filter import ALL_MESSAGES, EVERY_MESSAGE, MessageFilter, Scope
from palaver_server.store.messages import MessageRow

# How many hits diversity and HYBRID choose from.
CANDIDATES = 200

# The weight of the similarity in a hybrid score; the rest is the keyword score's.
_SIMILARITY_WEIGHT = 0.25

# LOCK: a table that a migration rewrites after the snapshot was taken would be empty in it, so a
# search waits for the migration first. No JIT: except for the largest searches, compiling takes
# longer than running.
_SETUP = (
    "LOCK TABLE sessions, messages IN ACCESS SHARE MODE",
    "SET LOCAL jit = off",
)

# In the scope of a session or a user, parallel workers make the planner prefer reading the
# messages of all sessions.
_NOT_PARALLEL = "SET LOCAL max_parallel_workers_per_gather = 0"


class Mode(Enum):
    """The way in which messages are compared with the text."""

    KEYWORD = auto()
    SEMANTIC = auto()
    HYBRID = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """A request for messages.

    Attributes:
        text: What to search for. If blank, all messages that pass the filter, newest first.
        mode: None: the best mode that the server has.
        limit: The maximum number of results.
        min_score: The minimum score of a result.
        diversity: From 0, best first, to 1, as unlike each other as possible.
        without_payload: Whether to return the messages without their payloads.
    """

    text: str
    limit: int
    scope: Scope = ALL_MESSAGES
    filter: MessageFilter = EVERY_MESSAGE
    mode: Mode | None = None
    min_score: float = 0
    diversity: float = 0
    without_payload: bool = False


class Result(NamedTuple):
    """A message that a search found, its score from 0 to 1, and a part of its content."""

    session_id: str
    message: MessageRow
    score: float
    snippet: str


@dataclass(frozen=True, slots=True)
class Results:
    """The results of a search, in order, and the mode that was used; None if there was no text."""

    results: Sequence[Result]
    mode: Mode | None


class Searcher:
    """The search over messages.

    Args:
        reader: Runs the statements.
        language: The search language.
        timeout: Maximum seconds for a statement.
    """

    def __init__(
        self,
        reader: Reader,
        semantic: SemanticSearch | NoSemanticSearch,
        *,
        language: str = "english",
        timeout: float = 5,
    ) -> None:
        self._reader = reader
        self._semantic = semantic
        self._language = language
        self._setup = (set_timeout(timeout), *_SETUP)
        self._setup_in_scope = (*self._setup, _NOT_PARALLEL)

    async def search(self, access: Access, search: Search) -> Results:
        """Search messages, over one connection and in one snapshot.

        A HYBRID search whose text cannot be embedded is answered as KEYWORD.

        Raises:
            NotFound: The scope is a session that is not live.
            InvalidRequest: `filter.metadata` is not a SQL/JSON path, or the mode is SEMANTIC and
                the embedder refuses the text.
            DeadlineExceeded: A statement exceeded the timeout.
            SemanticSearchUnavailable: The server lacks what the mode needs.
            EmbedderUnavailable: The mode is SEMANTIC, and the text cannot be embedded at the
                moment.
            DatabaseUnavailable: As `Pool.connection` does.
            NoConnectionInTime: As `Pool.connection` does.
        """
        search = replace(search, mode=self._mode(search))
        embedded = None
        if search.mode in (Mode.SEMANTIC, Mode.HYBRID):
            # Before a connection is taken: an endpoint may take seconds.
            embedded = await self._embed(access, search)
            search = search if embedded else replace(search, mode=Mode.KEYWORD)
        found, query = await self._read(
            access,
            search.scope,
            lambda connection: _search(access, connection, search, self._language, embedded),
        )
        return Results(await _with_snippets(found, query.grams), search.mode)

    def _mode(self, search: Search) -> Mode | None:
        if not search.text.strip():
            return None
        return search.mode or (Mode.HYBRID if self._semantic.available else Mode.KEYWORD)

    async def _embed(self, access: Access, search: Search) -> EmbeddedText | None:
        try:
            if search.mode is Mode.HYBRID:
                return await self._semantic.try_embed(search.text)
            return await self._semantic.embed(search.text)
        except PalaverError:
            # A missing session is reported before any error of the embedder.
            await self._read(
                access,
                search.scope,
                lambda connection: KeywordStore(connection).read_text(
                    access, "", language=self._language, scope=search.scope
                ),
            )
            raise

    async def _read(self, access: Access, scope: Scope, work: Work[T]) -> T:
        setup = self._setup_of(access, scope)
        return await self._reader.read(work, access.principal, snapshot=setup)

    def _setup_of(self, access: Access, scope: Scope) -> Sequence[str]:
        """Return the statements that set up a search's transaction."""
        return self._setup if scope.within(access).is_everything else self._setup_in_scope


async def _search(
    access: Access,
    connection: Connection,
    search: Search,
    language: str,
    embedded: EmbeddedText | None,
) -> tuple[list[FoundMessage], KeywordQuery]:
    """Return the messages that a search finds, and what its text asks for."""
    keywords = KeywordStore(connection)
    query = await keywords.read_text(access, search.text, language=language, scope=search.scope)
    if search.filter.metadata is None:
        return await _find(access, connection, search, query, embedded), query
    async with checked_path(connection, search.filter.metadata, access):
        return await _find(access, connection, search, query, embedded), query


async def _find(
    access: Access,
    connection: Connection,
    search: Search,
    query: KeywordQuery,
    embedded: EmbeddedText | None,
) -> list[FoundMessage]:
    """Return the messages that a search finds, in order."""
    store = ResultStore(connection, without_payload=search.without_payload)
    if search.diversity or embedded:
        found = await _hits(access, connection, search, query, embedded)
        hits = [hit for hit in found if hit.score >= search.min_score]
        if search.diversity:
            words = await store.get_words(access, [hit.key for hit in hits])
            hits = await diverse(hits, words, diversity=search.diversity, limit=search.limit)
        return await store.get_messages(access, hits[: search.limit], query)
    if search.mode is None:
        return await store.get_newest(
            access, query, limit=search.limit, scope=search.scope, filter=search.filter
        )
    return await store.get_best(
        access,
        query,
        limit=search.limit,
        min_score=search.min_score,
        scope=search.scope,
        filter=search.filter,
    )


async def _hits(
    access: Access,
    connection: Connection,
    search: Search,
    query: KeywordQuery,
    embedded: EmbeddedText | None,
) -> list[Hit]:
    """Return the best hits, best first: at least as many as were asked for, if there are."""
    limit = CANDIDATES if search.diversity or search.mode is Mode.HYBRID else search.limit
    if search.mode is None:
        store = ResultStore(connection)
        return await store.newest(access, limit=limit, scope=search.scope, filter=search.filter)
    hits: list[Hit] = []
    if search.mode is not Mode.SEMANTIC:
        keywords = KeywordStore(connection)
        hits = await keywords.rank(
            access, query, limit=limit, scope=search.scope, filter=search.filter
        )
    if embedded is None:
        return hits
    similarities = await embedded.nearest(
        access,
        connection,
        limit=limit,
        scope=search.scope,
        filter=search.filter,
        also=[hit.key for hit in hits],
    )
    similar = [Hit(key, min(near, 1)) for key, near in similarities.items() if near > 0]
    return similar if search.mode is Mode.SEMANTIC else _hybrid(hits, similar, query)


def _hybrid(hits: Sequence[Hit], similar: Sequence[Hit], query: KeywordQuery) -> list[Hit]:
    """Return the hits of both searches, with weighted sums of their scores, best first.

    Where the query requires or excludes terms, only keyword search can tell which messages match.
    """
    keyword, similarity = dict(hits), dict(similar)
    weighted = (
        Hit(
            key,
            (1 - _SIMILARITY_WEIGHT) * keyword.get(key, 0)
            + _SIMILARITY_WEIGHT * similarity.get(key, 0),
        )
        for key in ({**keyword, **similarity} if query.is_plain else keyword)
    )
    return sorted(weighted, key=lambda hit: hit.score, reverse=True)


async def _with_snippets(found: Sequence[FoundMessage], grams: Sequence[str]) -> list[Result]:
    contents = [each.message.content for each in found]
    marked = [each.marked for each in found]
    removed = [each.removed for each in found]
    snippets: Iterable[str] = map(snippet, contents, marked, repeat(grams), removed)
    if sum([len(each) for each in marked]) > MAX_INLINE_BYTES:
        snippets = await offload_each(iter(snippets))
    return [
        Result(each.session_id, each.message, each.score, text)
        for each, text in zip(found, snippets, strict=True)
    ]
