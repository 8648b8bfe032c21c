"""Load by ghz (https://ghz.sh), which is written in Go and takes little CPU time itself."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from google.protobuf.message import Message
from google.protobuf.proto import serialize_length_prefixed

from bench.calls import Call
from bench.measurement import Round, WrongAnswer
from bench.servers import ROOT

INSTALL = "go install github.com/bojand/ghz/cmd/ghz@latest"

_NANOSECONDS_PER_MILLISECOND = 1_000_000
_NANOSECONDS_PER_SECOND = 1_000_000_000

# Codes that calls may end with under overload: the call limit and HTTP/2 refuse them.
_REFUSED = {"ResourceExhausted", "Unavailable"}


def find() -> str | None:
    """Return the program's path: from PATH, or from where Go installs it."""
    return shutil.which("ghz") or shutil.which("ghz", path=os.fspath(Path.home() / "go" / "bin"))


@dataclass(frozen=True, slots=True)
class Flood:
    """Calls at a fixed rate, whether earlier ones were answered or not.

    Args:
        rate: Calls per second.
        connections: Number of connections.
        deadline: Seconds that a caller waits for an answer.
        seconds: Duration of the flood.
    """

    rate: float
    connections: int
    deadline: float
    seconds: float


class Ghz:
    """Loads servers that implement Palaver's contract.

    Args:
        program: Path of ghz.
        directory: Directory for its files.
    """

    def __init__(self, program: str, directory: Path) -> None:
        self._program = program
        self._protoset = directory / "palaver.protoset"
        self._data = directory / "requests.bin"
        # ghz's own parser of .proto files does not know `optional`.
        services = sorted((ROOT / "protos").glob("palaver/v1/*_service.proto"))
        subprocess.run(
            [
                sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={ROOT / 'protos'}",
                "--include_imports", f"--descriptor_set_out={self._protoset}", *services,
            ],
            check=True,
        )  # fmt: skip

    def load(
        self, address: str, call: Call, requests: Sequence[Message], *, seconds: float
    ) -> Round:
        """Send the requests in turn, and repeat them until the time is over.

        Args:
            address: HOST:PORT of the server.
            call: The method, and the number of calls in flight.
            requests: Requests of the method.
            seconds: When to stop starting calls; those in flight may finish.

        Raises:
            WrongAnswer: A call failed.
        """
        options = [
            f"--concurrency={call.in_flight}", f"--connections={call.connections}",
            f"--duration={seconds}s", "--duration-stop=wait",
        ]  # fmt: skip
        report = self._run(address, call, requests, options)
        _check_codes(report, {"OK"})
        return _round(report)

    def flood(self, address: str, call: Call, requests: Sequence[Message], flood: Flood) -> Round:
        """Send the requests in turn at a fixed rate, however long the answers take.

        Returns:
            The successful calls, and their rate until the last answer.

        Raises:
            WrongAnswer: A call neither succeeded nor was refused.
        """
        options = [
            "--async", f"--rps={round(flood.rate)}", f"--connections={flood.connections}",
            f"--concurrency={flood.connections}", f"--timeout={flood.deadline}s",
            f"--duration={flood.seconds}s", "--duration-stop=wait",
        ]  # fmt: skip
        report = self._run(address, call, requests, options)
        _check_codes(report, {"OK", *_REFUSED})
        return _round(report)

    def _run(
        self, address: str, call: Call, requests: Sequence[Message], options: list[str]
    ) -> dict[str, Any]:
        # Binary messages: ghz reads them before it starts. It would parse JSON during the load.
        messages = BytesIO()
        for request in requests:
            serialize_length_prefixed(request, messages)
        self._data.write_bytes(messages.getvalue())
        command = [
            self._program, "--insecure", f"--protoset={self._protoset}", f"--call={call.method}",
            f"--binary-file={self._data}", "--format=json", *options, address,
        ]  # fmt: skip
        report: dict[str, Any] = json.loads(
            subprocess.run(command, check=True, capture_output=True).stdout
        )
        return report


def _check_codes(report: dict[str, Any], allowed: set[str]) -> None:
    codes = report["statusCodeDistribution"]
    if "OK" not in codes or not set(codes) <= allowed:
        raise WrongAnswer(f"calls ended as {codes}: {report['errorDistribution']}")


def _round(report: dict[str, Any]) -> Round:
    done = report["statusCodeDistribution"]["OK"]
    latencies = {
        at["percentage"]: at["latency"] / _NANOSECONDS_PER_MILLISECOND
        for at in report["latencyDistribution"]
    }
    seconds = report["total"] / _NANOSECONDS_PER_SECOND
    return Round(done, done / seconds, latencies[50], latencies[95], latencies[99])
