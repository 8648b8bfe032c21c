"""A siege of a few seconds: every attack runs, and its figures are compared with wide limits."""

import re
import subprocess
import sys

import pytest

from siege.attacks import ATTACKS
from tests.support.processes import ROOT

# The limits find only what is broken: a busy machine is slow, and each attack is short.
_LIMITS = ("--max-p99-seconds=60", "--max-memory-mib=8000")


@pytest.mark.timeout(300)
def test_siege_short_run_keeps_rules() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "siege", "--seconds=12", "--seed=1", *_LIMITS],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=280,
    )

    assert run.returncode == 0, run.stdout + run.stderr
    for attack in ATTACKS:
        assert f"{attack}: all rules held" in run.stdout
    counts = r"[1-9][\d,]* sessions, [1-9][\d,]* messages acknowledged, 0 broken promises"
    assert re.search(f"ledger: {counts}", run.stdout)
