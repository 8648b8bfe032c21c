"""Load a conversation into Palaver, read it back, and compare.

    python examples/load_conversation.py [FILE [ADDRESS]]

Without a file it loads the sample next to this program, `conversations/allotment.json`.

A file is JSON: a `conversation_id`, and `sessions`, each with a `session_id`, a time
`held_at` such as "4:04 pm on 20 January, 2023", and `turns` with a `turn_id`, a `speaker`
and a `text`. The conversation becomes a user, each of its sessions a session of that user,
and each turn a message. A message has its turn's id, so a second run changes nothing.

`make bench-search` also reads `questions`: each has a `question`, and as `evidence` the ids of
the turns that answer it.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc

from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import AddMemoryRequest, StreamMessagesRequest
from palaver.v1.memory_service_pb2_grpc import MemoryServiceStub
from palaver.v1.session_pb2 import SessionFilter
from palaver.v1.session_service_pb2 import ListAllSessionsRequest
from palaver.v1.session_service_pb2_grpc import SessionServiceStub

SAMPLES = Path(__file__).parent / "conversations"
MAX_MESSAGES_PER_CALL = 1000


def main(arguments: Sequence[str] | None = None) -> None:
    """Load the conversation that the command line names."""
    options = parse(arguments)
    conversation = json.loads(options.file.read_text("utf-8"))
    user_id = f"conversation-{conversation['conversation_id']}"
    expected = {session["session_id"]: messages_of(session) for session in conversation["sessions"]}
    with grpc.insecure_channel(options.address) as channel:
        before = read(channel, user_id)
        write(channel, user_id, expected)
        after = read(channel, user_id)
    if {key: _written(messages) for key, messages in after.items()} != {
        key: _written(messages) for key, messages in expected.items()
    }:
        sys.exit(f"{user_id}: the messages read back differ from those loaded")
    print(f"{user_id}: {len(after)} sessions, {sum(map(len, after.values()))} messages")
    print("nothing changed" if before == after else "loaded, and read back the same")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; each argument has a default."""
    parser = argparse.ArgumentParser(description="Load a conversation, and read it back.")
    parser.add_argument("file", nargs="?", type=Path, default=SAMPLES / "allotment.json")
    parser.add_argument("address", nargs="?", default="127.0.0.1:50051")
    return parser.parse_args(arguments)


def write(channel: grpc.Channel, user_id: str, sessions: dict[str, list[Message]]) -> None:
    """Add the messages of each session. It is safe to repeat: the messages have ids."""
    memory = MemoryServiceStub(channel)
    for session_id, messages in sessions.items():
        for start in range(0, len(messages), MAX_MESSAGES_PER_CALL):
            batch = messages[start : start + MAX_MESSAGES_PER_CALL]
            memory.AddMemory(
                AddMemoryRequest(session_id=session_id, user_id=user_id, messages=batch)
            )


def read(channel: grpc.Channel, user_id: str) -> dict[str, list[Message]]:
    """Return all messages of a user's sessions, in order, by session id."""
    memory = MemoryServiceStub(channel)
    of_user = ListAllSessionsRequest(filter=SessionFilter(user_id=user_id))
    return {
        session.session_id: [
            message
            for chunk in memory.StreamMessages(StreamMessagesRequest(session_id=session.session_id))
            for message in chunk.messages
        ]
        for chunk in SessionServiceStub(channel).ListAllSessions(of_user)
        for session in chunk.sessions
    }


def messages_of(session: dict[str, Any]) -> list[Message]:
    """Convert a session's turns to messages, one second apart from the time it was held."""
    held_at = datetime.strptime(session["held_at"], "%I:%M %p on %d %B, %Y").replace(tzinfo=UTC)
    messages = []
    for number, turn in enumerate(session["turns"]):
        message = Message(message_id=turn["turn_id"], role=turn["speaker"], content=turn["text"])
        message.created_at.FromDatetime(held_at + timedelta(seconds=number))
        messages.append(message)
    return messages


def _written(messages: list[Message]) -> list[tuple[str, str, str, datetime]]:
    """Return the fields of messages that the caller set, without those the server added."""
    return [(m.message_id, m.role, m.content, m.created_at.ToDatetime(UTC)) for m in messages]


if __name__ == "__main__":
    main()
