"""Measure how often search finds the messages that answer a question: `make bench-search`.

Each data file is a conversation with questions, in the format that `examples/load_conversation.py`
describes.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import grpc

from bench import servers
from bench.database import Database
from examples.load_conversation import SAMPLES, messages_of, write
from palaver.v1.admin_service_pb2 import ReindexRequest
from palaver.v1.admin_service_pb2_grpc import AdminServiceStub
from palaver.v1.memory_service_pb2 import SearchMemoryRequest
from palaver.v1.memory_service_pb2_grpc import MemoryServiceStub
from palaver_server.process.embedded_postgres import EmbeddedPostgres

DEPTHS = (5, 10, 25)
MODES = ("KEYWORD", "SEMANTIC", "HYBRID")


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a user's sessions, and the messages that answer it."""

    user_id: str
    text: str
    evidence: frozenset[str]


@dataclass(frozen=True, slots=True)
class Answer:
    """The share of a question's evidence among the first results, at each depth."""

    recall: tuple[float, ...]
    seconds: float


@click.command()
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=SAMPLES,
    help="A directory of JSON files; by default the sample in examples/conversations.",
)
def main(data: Path) -> None:
    """Ask every question in every mode, and print the share of the evidence that is found."""
    files = sorted(data.glob("*.json"))
    if not files:
        click.echo(f"no conversations to search: {data} has no .json files")
        return
    with _palaver() as channel:
        questions = [question for file in files for question in _load(channel, file)]
        _embed(channel)
        click.echo(f"questions: {len(questions)}, conversations: {len(files)}\n")
        click.echo(_line("recall in %", *(f"at {depth}" for depth in DEPTHS), "median ms"))
        click.echo("|".join(["", "-" * 13, *["-" * 10 + ":"] * 4, ""]))
        for mode in MODES:
            click.echo(_row(channel, questions, mode))


@contextmanager
def _palaver() -> Iterator[grpc.Channel]:
    with tempfile.TemporaryDirectory(prefix="palaver-bench-") as directory:
        log = Path(directory, "server.log")
        with (
            EmbeddedPostgres(Path(directory)) as postgres,
            servers.palaver(
                Database(postgres.url, sessions=0), log, embedder="wordllama"
            ) as palaver,
            grpc.insecure_channel(palaver.address) as channel,
        ):
            yield channel


def _load(channel: grpc.Channel, file: Path) -> list[Question]:
    """Load a conversation as a user, and return its questions."""
    conversation: dict[str, Any] = json.loads(file.read_text("utf-8"))
    user_id = str(conversation["conversation_id"])
    sessions = {session["session_id"]: messages_of(session) for session in conversation["sessions"]}
    write(channel, user_id, sessions)
    return [
        Question(user_id, question["question"], frozenset(question["evidence"]))
        for question in conversation["questions"]
    ]


def _embed(channel: grpc.Channel) -> None:
    """Wait until all messages have vectors, if the server has an embedder."""
    try:
        for _ in AdminServiceStub(channel).Reindex(ReindexRequest()):
            pass
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.FAILED_PRECONDITION:
            raise


def _row(channel: grpc.Channel, questions: list[Question], mode: str) -> str:
    try:
        answers = [_ask(channel, question, mode) for question in questions]
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.FAILED_PRECONDITION:
            raise
        return _line(mode, *["-"] * len(DEPTHS), "-")
    recalls = zip(*(answer.recall for answer in answers), strict=True)
    return _line(
        mode,
        *(f"{100 * statistics.fmean(recall):.1f}" for recall in recalls),
        f"{1000 * statistics.median(answer.seconds for answer in answers):.1f}",
    )


def _ask(channel: grpc.Channel, question: Question, mode: str) -> Answer:
    request = SearchMemoryRequest(
        text=question.text,
        user_id=question.user_id,
        mode=SearchMemoryRequest.Mode.Value(mode),
        limit=max(DEPTHS),
    )
    start = time.perf_counter()
    response = MemoryServiceStub(channel).SearchMemory(request)
    seconds = time.perf_counter() - start
    if response.mode != request.mode:
        raise click.ClickException(f"a {mode} search was answered without the embedder")
    found = [result.message.message_id for result in response.results]
    recall = (
        len(question.evidence.intersection(found[:depth])) / len(question.evidence)
        for depth in DEPTHS
    )
    return Answer(tuple(recall), seconds)


def _line(first: str, *others: str) -> str:
    return f"| {first:11} | {' | '.join(f'{other:>9}' for other in others)} |"


if __name__ == "__main__":
    sys.exit(main())
