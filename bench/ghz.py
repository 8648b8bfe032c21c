"""Load by ghz (https://ghz.sh), which is not of Python and so costs little of the cores."""

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

_NANOSECONDS_A_MILLISECOND = 1_000_000
_NANOSECONDS_A_SECOND = 1_000_000_000

# How calls may end where there are too many: refused by the limit of calls, or by HTTP/2.
_REFUSED = {"ResourceExhausted", "Unavailable"}


def find() -> str | None:
    """Finds the program, on the path or where Go installs it."""
    return shutil.which("ghz") or shutil.which("ghz", path=os.fspath(Path.home() / "go" / "bin"))


@dataclass(frozen=True, slots=True)
class Flood:
    """Calls that come whether others are answered or not.

    Args:
        rate: How many a second.
        connections: Over how many.
        deadline: Seconds that a caller waits.
        seconds: For how long they come.
    """

    rate: float
    connections: int
    deadline: float
    seconds: float


class Ghz:
    """Loads servers of Palaver's contract.

    Args:
        program: Where ghz is.
        directory: For its files.
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
        """Sends the requests in turn, again and again.

        Args:
            address: HOST:PORT of the server.
            call: What to call, and how many calls at the same time.
            requests: Of the call.
            seconds: When to stop; calls in flight are waited for.

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
        """Sends the requests in turn, however long the answers take.

        Returns:
            The calls that were answered well; a second, until the last one was answered.

        Raises:
            WrongAnswer: A call was neither answered well nor refused.
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
        # As messages, which ghz reads before it begins; of JSON it would parse each amid the load.
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
        at["percentage"]: at["latency"] / _NANOSECONDS_A_MILLISECOND
        for at in report["latencyDistribution"]
    }
    seconds = report["total"] / _NANOSECONDS_A_SECOND
    return Round(done, done / seconds, latencies[50], latencies[95], latencies[99])
