"""Any request gets one of the answers that its method may give."""

import logging

import grpc
import pytest
from hypothesis import HealthCheck, given, settings

from fuzz.calls import call
from fuzz.cases import METHODS, Case, cases
from fuzz.verdict import fault
from tests.conftest import Run
from tests.support.client import Client


async def fault_of(palaver: Client, case: Case) -> str:
    async with grpc.aio.insecure_channel(palaver.address) as channel:
        return fault(case, await call(channel, case, seconds=20))


# `make fuzz` runs as many cases as there is time for.
some = settings(
    max_examples=300,
    derandomize=True,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@some
@given(case=cases())
def test_fuzz_any_request_gets_an_allowed_answer(
    palaver: Client, run: Run, caplog: pytest.LogCaptureFixture, case: Case
) -> None:
    assert not run(fault_of(palaver, case))
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_fuzz_covers_every_service() -> None:
    assert {method.containing_service.full_name for method in METHODS} == {
        "palaver.v1.SessionService",
        "palaver.v1.MemoryService",
        "palaver.v1.UserService",
        "palaver.v1.AdminService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }
