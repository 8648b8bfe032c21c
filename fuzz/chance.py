"""Weighted choices: hypothesis flattens nested `one_of` and draws each leaf equally often."""

from typing import TypeVar

from hypothesis import strategies as st

T = TypeVar("T")

_PERCENT = st.integers(0, 99)


@st.composite
def chance(
    draw: st.DrawFn, percent: int, unusual: st.SearchStrategy[T], usual: st.SearchStrategy[T]
) -> T:
    """Draw the unusual in this percentage of cases; shrinking leads to the usual."""
    return draw(unusual if draw(_PERCENT) >= 100 - percent else usual)
