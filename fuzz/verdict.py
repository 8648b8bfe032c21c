"""The codes that each method may return."""

from fuzz.calls import Outcome
from fuzz.cases import Case

_EVERYWHERE = frozenset({"OK", "INVALID_ARGUMENT"})

# Additional codes by the start of the method's name. Deadlines may be exceeded where callers
# write expressions of their own: searches and JSON paths.
_ALSO = {
    **{
        f"palaver.v1.{method}": {"ABORTED"}
        for method in (
            "SessionService.Update",
            "SessionService.Delete",
            "UserService.Update",
            "UserService.Delete",
            "MemoryService.Add",
            "MemoryService.Update",
            "MemoryService.Delete",
        )
    },
    "palaver.v1.SessionService.": {"NOT_FOUND"},
    "palaver.v1.SessionService.AddSession": {"ALREADY_EXISTS"},
    "palaver.v1.SessionService.List": {"DEADLINE_EXCEEDED"},
    "palaver.v1.UserService.": {"NOT_FOUND"},
    "palaver.v1.UserService.AddUser": {"ALREADY_EXISTS"},
    "palaver.v1.MemoryService.": {"NOT_FOUND"},
    "palaver.v1.MemoryService.SearchMemory": {"DEADLINE_EXCEEDED", "FAILED_PRECONDITION"},
    # Callers have no credential: of many requests that arrive slowly, the oldest are ended.
    "grpc.health.v1.Health.": {"NOT_FOUND", "RESOURCE_EXHAUSTED"},
    "grpc.reflection.": {"RESOURCE_EXHAUSTED"},
}

# gRPC's client says this, instead of the server's status, of a call whose request it could not
# send to its end because the server had ended the call.
_CUT_OFF = ("INTERNAL", "Internal error from Core")


def fault(case: Case, outcome: Outcome) -> str:
    """Describe what is wrong with the outcome of a case; return "" if it is allowed."""
    if outcome.code in _allowed(case.method.full_name):
        return ""
    if case.method.client_streaming and outcome == _CUT_OFF:
        return ""
    return f"{outcome.code}: {outcome.details}"


def _allowed(method: str) -> frozenset[str]:
    return _EVERYWHERE.union(*(codes for start, codes in _ALSO.items() if method.startswith(start)))
