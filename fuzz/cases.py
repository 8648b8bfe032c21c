"""The cases: any method of the server, with any request."""

from typing import NamedTuple

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pool import Default as DescriptorPool
from grpc_health.v1 import health
from hypothesis import strategies as st

from fuzz.chance import chance
from fuzz.damage import damaged
from fuzz.messages import Encoded, messages
from palaver_server.bootstrap import services
from palaver_server.transport.reflection_service import V1_NAME, V1ALPHA

SERVICES = (*services.SERVICES, health.SERVICE_NAME, V1_NAME, V1ALPHA.full_name)

# From the descriptors, so that new methods are included.
METHODS: list[MethodDescriptor] = [
    method for service in SERVICES for method in DescriptorPool().FindServiceByName(service).methods
]


class Case(NamedTuple):
    """A method and a request.

    Attributes:
        method: The method.
        request: The encoded request.
    """

    method: MethodDescriptor
    request: bytes

    @property
    def path(self) -> str:
        """The method's path on the wire."""
        return f"/{self.method.containing_service.full_name}/{self.method.name}"


def _requests(method: MethodDescriptor) -> Encoded:
    """Return requests of a method: half of them valid, the others odd or damaged."""
    usual = messages(method.input_type, odd=False)
    odd = messages(method.input_type, odd=True)
    no_message = chance(20, st.binary(max_size=64), damaged(chance(50, odd, usual)))
    return chance(25, no_message, chance(33, odd, usual))


_REQUESTS = {method.full_name: _requests(method) for method in METHODS}

# Adds are frequent and deletes rare, so that other calls find rows.
_OFTEN = [method for method in METHODS if method.name.startswith("Add")] * 6
_SELDOM = [method for method in METHODS if method.name.startswith(("Delete", "Purge", "Reindex"))]
_NOT_SELDOM = [method for method in METHODS if method not in _SELDOM] * 3

_methods = st.sampled_from(_OFTEN + _NOT_SELDOM + _SELDOM)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw a case."""
    method = draw(_methods)
    return Case(method, draw(_REQUESTS[method.full_name]))
