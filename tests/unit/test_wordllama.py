"""The wordllama embedder with its real model."""

import math
import subprocess
import sys
from collections.abc import Sequence

import pytest

from palaver_server.embedding.embedders.wordllama import WordLlamaEmbedder
from tests.conftest import Run

pytest.importorskip("wordllama", reason="there is none for this platform")


@pytest.fixture(scope="module")
def embedder() -> WordLlamaEmbedder:
    return WordLlamaEmbedder()


def similarity(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def test_wordllama_similar_texts_are_near(run: Run, embedder: WordLlamaEmbedder) -> None:
    question, answer, other = run(
        embedder.embed(
            ["Does she have a pet?", "Her dog sleeps all day.", "The invoice is due on Friday."]
        )
    )

    assert similarity(question, answer) > similarity(question, other) + 0.1


def test_wordllama_vectors_have_dimensions_and_length_1(
    run: Run, embedder: WordLlamaEmbedder
) -> None:
    for vector in run(embedder.embed(["word", " ", "日本語", "\U0001f600", "x" * 8000])):
        assert len(vector) == embedder.dimensions
        assert math.isclose(math.hypot(*vector), 1, rel_tol=1e-5)


def test_wordllama_vector_is_independent_of_batch(run: Run, embedder: WordLlamaEmbedder) -> None:
    (alone,) = run(embedder.embed(["a text"]))

    assert run(embedder.embed(["another, much longer one " * 20, "a text"]))[1] == alone


@pytest.mark.slow
def test_wordllama_construction_imports_nothing_slow() -> None:
    """Loading the model must not delay the start of a server."""
    code = (
        "import sys; from palaver_server.embedding.embedders.wordllama import WordLlamaEmbedder;"
        "WordLlamaEmbedder(); from palaver_server.bootstrap import server;"
        "assert {'wordllama', 'numpy', 'httpx2'}.isdisjoint(sys.modules)"
    )

    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})
