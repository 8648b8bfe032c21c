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
from palaver.v1.session_pb2 import Session
from tests.support.model.book import Book, name_of
from tests.support.model.expected import BrokenPromise, Found, Place
from tests.support.model.reading import Reading

CANCELLED = grpc.StatusCode.CANCELLED


@pytest.fixture
def book() -> Book:
    """A session to which a and b were added, and c, whose answer was lost."""
    book = Book("s")
    above = book.will_send(["a", "b"])
    book.added({"a": Place("a", 1), "b": Place("b", 2)}, above=above)
    book.will_send(["c"])
    book.doubt(["c"])
    return book


def found(*messages: tuple[str, int]) -> list[Found]:
    return [
        Found(name_of(content), Place(name_of(content), at), content) for content, at in messages
    ]


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
    book.deleted(["a"])

    with pytest.raises(BrokenPromise, match="the deleted message a is back"):
        Reading(book, "R").check_listing(found(("a", 1), ("b", 2)))


def test_ledger_message_deleted_during_read_may_be_present_or_absent(book: Book) -> None:
    with_it, without = Reading(book, "R"), Reading(book, "R")
    book.will_delete(["a"])
    book.deleted(["a"])

    with_it.check_listing(found(("a", 1), ("b", 2)))
    without.check_listing(found(("b", 2)))


def test_ledger_restored_deleted_session_is_detected(book: Book) -> None:
    book.will_delete_all()
    book.all_deleted()
    assert book.retired, "c may restore it"
    Reading(book, "R").check_listing(found(("c", 3)))
    with pytest.raises(BrokenPromise, match="the deleted message b is back"):
        Reading(book, "R").check_listing(found(("b", 2)))

    certain = Book("s")
    above = certain.will_send(["a"])
    certain.added({"a": Place("a", 1)}, above=above)
    certain.will_delete_all()
    certain.all_deleted()
    with pytest.raises(BrokenPromise, match="was deleted, and was found"):
        Reading(certain, "R").check_listing([])


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
        {"d": Place("d", 2)},
        {"d": Place("d", 4), "e": Place("e", 6)},
        {"a": Place("a", 4)},
    ],
    ids=["reused", "gap", "moved"],
)
def test_ledger_wrong_sequences_are_detected(book: Book, places: dict[str, Place]) -> None:
    above = book.will_send(places)

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


def test_ledger_wrong_session_listing_is_detected() -> None:
    ledger = Ledger("1")
    there, gone = ledger.open_book(), ledger.open_book()
    there.exists, gone.exists = True, False

    def listed(*session_ids: str) -> None:
        sessions = [Session(session_id=id_, id=at) for at, id_ in enumerate(session_ids)]
        Listing(ledger).gives(sessions, newest_first=False)

    listed(there.session_id)
    for wrong in ([], [there.session_id] * 2, [there.session_id, gone.session_id]):
        with pytest.raises(BrokenPromise, match="is listed"):
            listed(*wrong)


def test_chaos_same_seed_has_same_faults() -> None:
    kinds = ["killed", "frozen"]

    def some(seed: int) -> list[object]:
        return list(islice(faults(kinds, Random(seed)), 20))

    assert some(1) == some(1)
    assert some(1) != some(2)
