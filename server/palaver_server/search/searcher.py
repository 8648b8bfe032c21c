"""Search: puts together what is found by words and by meaning, and chooses among it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from palaver_server.auth.access import Access
from palaver_server.embedding.semantic_search import NoSemanticSearch, SemanticSearch
from palaver_server.search.keyword_store import Hit, WordQuery, WordStore
from palaver_server.search.result_store import WORD_END, WORD_START, FoundMessage, FoundStore
from palaver_server.search.snippet import marked_ranges, occurrences, snippet
from palaver_server.store.message_filter import ALL_MESSAGES, EVERY_MESSAGE, MessageFilter, Scope
from palaver_server.store.messages import Key, MessageRow

# How many are looked at where more are chosen from than are asked for.
CANDIDATES = 200

# What similarity counts in a hybrid score, words counting the rest.
_SIMILARITY = 0.25


class Mode(Enum):
    """How a text is compared with messages."""

    KEYWORD = auto()
    SEMANTIC = auto()
    HYBRID = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What is searched for.

    Attributes:
        text: Blank: everything that passes the filter, newest first.
        mode: None: the best there is.
        limit: The most results.
        min_score: The least score of a result.
        diversity: From 0 to 1; 0: the best come first, however alike they are.
    """

    text: str
    limit: int
    scope: Scope = ALL_MESSAGES
    filter: MessageFilter = EVERY_MESSAGE
    mode: Mode | None = None
    min_score: float = 0
    diversity: float = 0


@dataclass(frozen=True, slots=True)
class Result:
    """A message that was found, how good it is from 0 to 1, and a part of its content."""

    session_id: str
    message: MessageRow
    score: float
    snippet: str


@dataclass(frozen=True, slots=True)
class Results:
    """What was found, in order, and the mode that found it; None if there was no text."""

    results: Sequence[Result]
    mode: Mode | None


class Searcher:
    """Searches messages."""

    def __init__(
        self, words: WordStore, found: FoundStore, semantic: SemanticSearch | NoSemanticSearch
    ) -> None:
        self._words = words
        self._found = found
        self._semantic = semantic

    async def search(self, access: Access, search: Search) -> Results:
        """Finds messages.

        Raises:
            NotFound: The scope is a session that is not live.
            InvalidRequest: `filter.metadata` is not a SQL/JSON path.
            DeadlineExceeded: The search takes longer than it may.
            SemanticSearchUnavailable: The mode needs what the server does not have.
            EmbedderUnavailable: The text cannot be embedded for now.
            TextsRefused: The embedder refuses the text.
        """
        query = await self._words.read_text(access, search.text, scope=search.scope)
        mode = self._mode(search)
        hits = [
            hit
            for hit in await self._hits(access, search, mode, query)
            if hit.score >= search.min_score
        ]
        if search.diversity:
            words = await self._found.get_words(access, [hit.key for hit in hits])
            hits = diverse(hits, words, diversity=search.diversity, limit=search.limit)
        scores = dict(hits[: search.limit])
        messages = await self._found.get_messages(
            access, list(scores), query=" | ".join(query.terms)
        )
        return Results([_result(message, scores[message.key], query) for message in messages], mode)

    def _mode(self, search: Search) -> Mode | None:
        if not search.text.strip():
            return None
        return search.mode or (Mode.HYBRID if self._semantic.available else Mode.KEYWORD)

    async def _hits(
        self, access: Access, search: Search, mode: Mode | None, query: WordQuery
    ) -> list[Hit]:
        """Gets at least as many of the best as are asked for, the best first."""
        limit = CANDIDATES if search.diversity else search.limit
        match mode:
            case Mode.KEYWORD:
                return await self._by_words(access, search, query, limit)
            case Mode.SEMANTIC:
                return await self._by_meaning(access, search, limit)
            case Mode.HYBRID:
                return await self._by_both(access, search, query)
            case None:
                keys = await self._found.newest(
                    access, limit=limit, scope=search.scope, filter=search.filter
                )
                return [Hit(key, 1) for key in keys]

    async def _by_words(
        self, access: Access, search: Search, query: WordQuery, limit: int
    ) -> list[Hit]:
        return await self._words.match(
            access, query, limit=limit, scope=search.scope, filter=search.filter
        )

    async def _by_meaning(
        self, access: Access, search: Search, limit: int, also: Sequence[Key] = ()
    ) -> list[Hit]:
        """Finds what has anything in common with the text."""
        similarities = await self._semantic.nearest(
            access, search.text, limit=limit, scope=search.scope, filter=search.filter, also=also
        )
        return [Hit(key, min(near, 1)) for key, near in similarities.items() if near > 0]

    async def _by_both(self, access: Access, search: Search, query: WordQuery) -> list[Hit]:
        """Adds up the scores. What is required or excluded, words alone can tell."""
        words = dict(await self._by_words(access, search, query, CANDIDATES))
        meaning = dict(await self._by_meaning(access, search, CANDIDATES, also=list(words)))
        hits = [
            Hit(key, (1 - _SIMILARITY) * words.get(key, 0) + _SIMILARITY * meaning.get(key, 0))
            for key in ({**words, **meaning} if query.is_plain else words)
        ]
        return sorted(hits, key=lambda hit: hit.score, reverse=True)


def diverse(
    hits: Sequence[Hit], words: Mapping[Key, frozenset[str]], *, diversity: float, limit: int
) -> list[Hit]:
    """Chooses hits one by one, each for its score and against its likeness to those before.

    Likeness is the share of the words of two messages that both have (maximal marginal
    relevance).

    Args:
        hits: The best first.
        words: The different words of each; of one that is gone meanwhile there are none.
        diversity: From 0, the score alone counts, to 1, likeness alone does.
        limit: How many to choose.
    """
    likeness = {hit: 0.0 for hit in hits if hit.key in words}  # of those that are left
    chosen: list[Hit] = []
    while likeness and len(chosen) < limit:
        best = max(
            likeness, key=lambda hit: (1 - diversity) * hit.score - diversity * likeness[hit]
        )
        del likeness[best]
        chosen.append(best)
        likeness = {
            hit: max(greatest, _likeness(words[hit.key], words[best.key]))
            for hit, greatest in likeness.items()
        }
    return chosen


def _likeness(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / (len(one | other) or 1)


def _result(found: FoundMessage, score: float, query: WordQuery) -> Result:
    content = found.message.content
    spans = [
        *marked_ranges(found.marked, WORD_START, WORD_END),
        *occurrences(content[: len(found.marked)], query.grams),
    ]
    return Result(found.key.session_id, found.message, score, snippet(content, spans))
