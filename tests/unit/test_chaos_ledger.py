"""The ledger of the chaos run: it detects errors, and accepts every allowed outcome."""

import time
from itertools import islice
from math import inf
from random import Random

import grpc
import pytest

from chaos.faults import faults
from chaos.ledger import Ledger
from chaos.listings import Listing
from tests.support.model.book import Book, name_in
from tests.support.model.expected import BrokenPromise
from tests.support.model.presence import Presence
from tests.support.model.reading import Reading
from tests.support.model.state import Message

CANCELLED = grpc.StatusCode.CANCELLED


@pytest.fixture
def book() -> Book:
    """A session to which a and b were added, and c, whose answer was lost."""
    book = Book(Presence("s"))
    added = placed(("a", 1), ("b", 2))
    book.added(added, above=book.will_send(added.values()))
    book.will_send(found(("c", 0)))
    book.doubt(["c"])
    return book


def found(*messages: tuple[str, int]) -> list[Message]:
    return [
        Message(name_in(content), "user", content, sequence=sequence)
        for content, sequence in messages
    ]


def placed(*messages: tuple[str, int]) -> dict[str, Message]:
    return {message.content: message for message in found(*messages)}


@pytest.mark.parametrize(
    "messages", [[("a", 1), ("b", 2)], [("a", 1), ("b", 2), ("c", 3)]], ids=["without", "with"]
)
def test_ledger_unanswered_call_may_be_present_or_absent(
    book: Book, messages: list[tuple[str, int]]
) -> None:
    Reading(book, "R").check_listing(found(*messages))


@pytest.mark.parametrize(
    ("messages", "wrong"),
    [
        ([("a", 1)], "b is missing"),
        ([("a", 1), ("b", 2), ("c", 3), ("c", 4)], "c is there twice"),
        ([("b", 2), ("a", 1)], "out of order"),
        ([("a", 1), ("b", 3)], "never acknowledged like this"),
        ([("a changed", 1), ("b", 2)], "never acknowledged like this"),
        ([("a", 1), ("b", 2), ("x", 3)], "never acknowledged like this"),
    ],
    ids=["missing", "twice", "order", "moved", "changed", "unknown"],
)
def test_ledger_wrong_listing_is_detected(
    book: Book, messages: list[tuple[str, int]], wrong: str
) -> None:
    with pytest.raises(BrokenPromise, match=wrong):
        Reading(book, "R").check_listing(found(*messages))


def test_ledger_page_holds_only_its_range(book: Book) -> None:
    Reading(book, "R").check_listing(found(("b", 2)), after=1)
    Reading(book, "R").check_listing(found(("a", 1)), until=1)
    with pytest.raises(BrokenPromise, match="b is missing"):
        Reading(book, "R").check_listing([], after=1)


def test_ledger_restored_deleted_message_is_detected(book: Book) -> None:
    book.will_delete(["a"])
    Reading(book, "R").check_listing(found(("a", 1), ("b", 2)))  # until the delete is acknowledged
    book.record_gone(["a"])

    with pytest.raises(BrokenPromise, match="the deleted message a is back"):
        Reading(book, "R").check_listing(found(("a", 1), ("b", 2)))


def test_ledger_message_deleted_during_read_may_be_present_or_absent(book: Book) -> None:
    with_it, without = Reading(book, "R"), Reading(book, "R")
    book.will_delete(["a"])
    book.record_gone(["a"])

    with_it.check_listing(found(("a", 1), ("b", 2)))
    without.check_listing(found(("b", 2)))


def test_ledger_missing_session_is_detected(book: Book) -> None:
    with pytest.raises(BrokenPromise, match="the session exists"):
        Reading(book, "R").check_may_be_missing()


def test_ledger_lost_merge_is_detected(book: Book) -> None:
    book.merged["k"] = "v"

    Reading(book, "R").check_metadata({"k": "v", "other": "w"})
    with pytest.raises(BrokenPromise, match="k is missing"):
        Reading(book, "R").check_metadata({"other": "w"})


@pytest.mark.parametrize(
    "places",
    [
        placed(("d", 2)),
        placed(("d", 4), ("e", 6)),
    ],
    ids=["reused", "gap"],
)
def test_ledger_wrong_sequences_are_detected(book: Book, places: dict[str, Message]) -> None:
    above = book.will_send(places.values())

    with pytest.raises(BrokenPromise):
        book.added(places, above=above)


def test_ledger_unexpected_code_is_detected() -> None:
    ledger = Ledger("1")
    ledger.called("AddMemory", grpc.StatusCode.UNAVAILABLE)
    ledger.called("GetMemory", grpc.StatusCode.NOT_FOUND)

    for rpc, code in (
        ("AddMemory", grpc.StatusCode.NOT_FOUND),
        ("GetMemory", grpc.StatusCode.INTERNAL),
        ("GetMemory", grpc.StatusCode.UNKNOWN),
    ):
        with ledger.keeps():
            ledger.called(rpc, code)

    assert [line.partition(" ")[2] for line in ledger.broken] == [
        "AddMemory ended with NOT_FOUND",
        "GetMemory ended with INTERNAL",
        "GetMemory ended with UNKNOWN",
    ]


def test_ledger_cancellation_is_allowed_only_by_stop_for_callers_ignoring_health() -> None:
    ledger = Ledger("1")
    begun = time.monotonic()

    for heedless_since in (inf, begun):
        with pytest.raises(BrokenPromise):
            ledger.called("AddMemory", CANCELLED, heedless_since=heedless_since)
    with ledger.stopping():
        ledger.called("AddMemory", CANCELLED, heedless_since=begun)
        with pytest.raises(BrokenPromise):
            ledger.called("AddMemory", CANCELLED)
    ledger.called("AddMemory", CANCELLED, heedless_since=begun)
    with pytest.raises(BrokenPromise):
        ledger.called("AddMemory", CANCELLED, heedless_since=time.monotonic())


def test_ledger_wrong_listing_of_everything_is_detected() -> None:
    there, gone = Presence("there", exists=True), Presence("gone")

    def listed(*names: str) -> None:
        Listing([there, gone]).gives(list(enumerate(names)), newest_first=False)

    listed(there.name)
    for wrong in ([], [there.name] * 2, [there.name, gone.name]):
        with pytest.raises(BrokenPromise, match="is listed"):
            listed(*wrong)


def test_ledger_listing_during_a_change_may_have_either() -> None:
    deleted = Presence("deleted", exists=True)
    listing = Listing([deleted])
    deleted.exists = None
    deleted.exists = True

    listing.gives([], newest_first=False)


def test_chaos_same_seed_has_same_faults() -> None:
    kinds = ["killed", "frozen"]

    def some(seed: int) -> list[object]:
        return list(islice(faults(kinds, Random(seed)), 20))

    assert some(1) == some(1)
    assert some(1) != some(2)
