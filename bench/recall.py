"""How well search finds what answers a question: `python -m bench.recall`, or `make bench-search`.

Each file of the data is a conversation, as `examples/load_conversation.py` describes it, with
`questions`: a `question`, and as its `evidence` the ids of the turns that answer it.
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
from examples.load_conversation import messages_of, write
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
    """What a search found of the evidence of a question: the share, at each depth."""

    recall: tuple[float, ...]
    seconds: float


@click.command()
@click.option(
    "--data", type=click.Path(file_okay=False, path_type=Path), help="A directory of JSON files."
)
def main(data: Path | None) -> None:
    """Ask every question of every mode, and print how much of the evidence is found."""
    files = sorted(data.glob("*.json")) if data else []
    if not files:
        click.echo("no conversations to search: name a directory of them, as in DATA=…")
        return
    with _palaver() as channel:
        questions = [question for file in files for question in _load(channel, file)]
        _embed(channel)
        click.echo(f"{len(questions)} questions about {len(files)} conversations\n")
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
    """Loads a conversation as a user; gives its questions."""
    conversation: dict[str, Any] = json.loads(file.read_text("utf-8"))
    user_id = str(conversation["conversation_id"])
    sessions = {session["session_id"]: messages_of(session) for session in conversation["sessions"]}
    write(channel, user_id, sessions)
    return [
        Question(user_id, question["question"], frozenset(question["evidence"]))
        for question in conversation["questions"]
    ]


def _embed(channel: grpc.Channel) -> None:
    """Waits until all messages have their vectors, if the server makes any."""
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
