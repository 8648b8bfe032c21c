"""A chaos run of a few seconds."""

import subprocess
import sys

from tests.support.processes import ROOT

# This seed has six kinds of faults in the first seven seconds.
_SEED = "1629"


def test_chaos_short_run_breaks_no_promise() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "chaos", "--seconds=8", f"--seed={_SEED}"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=100,
    )

    assert run.returncode == 0, run.stdout + run.stderr
    assert f"seed {_SEED}, 8 seconds" in run.stdout
    for done in ("AddMemory", "SearchMemory", "backend killed", "messages that must be gone"):
        assert done in run.stdout
