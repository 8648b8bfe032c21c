"""Choices that are not even: hypothesis flattens its own, and takes each leaf as often."""

from typing import TypeVar

from hypothesis import strategies as st

T = TypeVar("T")

_PERCENT = st.integers(0, 99)


@st.composite
def chance(
    draw: st.DrawFn, percent: int, unusual: st.SearchStrategy[T], usual: st.SearchStrategy[T]
) -> T:
    """Draws the unusual in so many of 100 cases; a case that shrinks becomes usual."""
    return draw(unusual if draw(_PERCENT) >= 100 - percent else usual)
