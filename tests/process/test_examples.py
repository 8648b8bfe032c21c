"""The example program and `make bench-search`, on the sample conversation."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench import recall
from examples import load_conversation
from tests.support.client import Client

SAMPLE = load_conversation.SAMPLES / "allotment.json"
CONVERSATION = json.loads(SAMPLE.read_text("utf-8"))
TURNS = [turn for session in CONVERSATION["sessions"] for turn in session["turns"]]


def test_load_conversation_run_twice_changes_nothing(
    palaver: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    load_conversation.main([str(SAMPLE), palaver.address])
    first = capsys.readouterr().out

    load_conversation.main([str(SAMPLE), palaver.address])
    second = capsys.readouterr().out

    counts = (
        f"conversation-allotment: {len(CONVERSATION['sessions'])} sessions, {len(TURNS)} messages"
    )
    assert first == f"{counts}\nloaded, and read back the same\n"
    assert second == f"{counts}\nnothing changed\n"


def test_load_conversation_additional_message_exits(palaver: Client) -> None:
    session_id = CONVERSATION["sessions"][0]["session_id"]
    load_conversation.main([str(SAMPLE), palaver.address])
    palaver.add(session_id, "one more")

    with pytest.raises(SystemExit, match="differ from those loaded"):
        load_conversation.main([str(SAMPLE), palaver.address])


def test_load_conversation_without_arguments_takes_sample() -> None:
    assert load_conversation.parse([]).file == SAMPLE


def test_sample_evidence_names_turns() -> None:
    turn_ids = [turn["turn_id"] for turn in TURNS]
    evidence = {id_ for question in CONVERSATION["questions"] for id_ in question["evidence"]}

    assert len(turn_ids) == len(set(turn_ids))
    assert evidence <= set(turn_ids)


def test_bench_search_without_data_searches_sample() -> None:
    result = CliRunner().invoke(recall.main, [])

    assert result.exit_code == 0, result.output
    (row,) = [line for line in result.output.splitlines() if line.startswith("| KEYWORD")]
    recall_at_5 = float(row.split("|")[2])
    assert f"questions: {len(CONVERSATION['questions'])}, conversations: 1" in result.output
    assert recall_at_5 > 50


def test_bench_search_directory_without_conversations_says_so(tmp_path: Path) -> None:
    result = CliRunner().invoke(recall.main, ["--data", str(tmp_path)])

    assert result.exit_code == 0
    assert result.output == f"no conversations to search: {tmp_path} has no .json files\n"
