"""Load by ghz (https://ghz.sh), which is not of Python and so costs little of the cores."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.calls import Call
from bench.measurement import Round, WrongAnswer
from bench.servers import ROOT

INSTALL = "go install github.com/bojand/ghz/cmd/ghz@latest"

_NANOSECONDS_A_MILLISECOND = 1_000_000


def find() -> str | None:
    """Finds the program, on the path or where Go installs it."""
    return shutil.which("ghz") or shutil.which("ghz", path=os.fspath(Path.home() / "go" / "bin"))


class Ghz:
    """Loads servers of Palaver's contract.

    Args:
        program: Where ghz is.
        directory: For its files.
    """

    def __init__(self, program: str, directory: Path) -> None:
        self._program = program
        self._protoset = directory / "palaver.protoset"
        self._data = directory / "requests.json"
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
        self, address: str, call: Call, requests: Sequence[dict[str, Any]], *, seconds: float
    ) -> Round:
        """Sends the requests in turn, again and again.

        Args:
            address: HOST:PORT of the server.
            call: What to call, and how many calls at the same time.
            requests: As JSON objects.
            seconds: When to stop; calls in flight are waited for.

        Raises:
            WrongAnswer: A call failed.
        """
        self._data.write_text(json.dumps(requests))
        command = [
            self._program, "--insecure", f"--protoset={self._protoset}", f"--call={call.method}",
            f"--data-file={self._data}", f"--concurrency={call.in_flight}",
            f"--connections={call.connections}", f"--duration={seconds}s", "--duration-stop=wait",
            "--format=json", address,
        ]  # fmt: skip
        report = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        return _round(report)


def _round(report: dict[str, Any]) -> Round:
    codes = report["statusCodeDistribution"]
    if set(codes) != {"OK"}:
        raise WrongAnswer(f"calls ended as {codes}: {report['errorDistribution']}")
    latencies = {
        at["percentage"]: at["latency"] / _NANOSECONDS_A_MILLISECOND
        for at in report["latencyDistribution"]
    }
    return Round(codes["OK"], report["rps"], latencies[50], latencies[95], latencies[99])
