"""UUIDs of version 7."""

import time
import uuid

import pytest

from palaver_server.store.uuid7 import uuid7


def test_uuid7_has_version_7_and_usual_form() -> None:
    text = uuid7()

    parsed = uuid.UUID(text)
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert str(parsed) == text


def test_uuid7_starts_with_milliseconds() -> None:
    before = time.time_ns() // 1_000_000
    milliseconds = uuid.UUID(uuid7()).int >> 80
    after = time.time_ns() // 1_000_000

    assert before <= milliseconds <= after


def test_uuid7_is_unique() -> None:
    assert len({uuid7() for _ in range(10_000)}) == 10_000


def test_uuid7_sorts_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for milliseconds in (1, 2, 1_700_000_000_000, 1_700_000_000_001):
        monkeypatch.setattr("time.time_ns", lambda ms=milliseconds: ms * 1_000_000)
        made.append(uuid7())

    assert made == sorted(made)


# Source: RFC 9562, appendix A.6.
def test_uuid7_example_of_rfc_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    random = 0xCC3 << 64 | 0x18C4DC0C0C07398F
    monkeypatch.setattr("time.time_ns", lambda: 0x017F22E279B0 * 1_000_000)
    monkeypatch.setattr("os.urandom", lambda size: random.to_bytes(size, "big"))

    assert uuid7() == "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"
