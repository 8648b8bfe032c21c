"""Authorization: refuses calls that the caller's role does not permit."""

from functools import partial

from google.protobuf.descriptor import MethodDescriptor

from palaver_server.auth.principal import PRINCIPAL
from palaver_server.auth.roles import POLICY
from palaver_server.errors import PermissionDenied
from palaver_server.interceptors.interceptor import IncomingCall, StartCall, full_name


class Authorization:
    """The interceptor that checks the caller's role. It comes after Authentication."""

    def intercept(self, method: MethodDescriptor) -> StartCall:
        """Return a function that checks the caller's role for a method."""
        return partial(_check, full_name(method))


def _check(method: str, _call: IncomingCall) -> None:
    principal, minimum = PRINCIPAL.get(), POLICY.get(method)
    if principal is None or minimum is None:
        raise PermissionDenied("NOT_ALLOWED", "no role may call this method")
    if principal.role < minimum:
        raise PermissionDenied(
            "ROLE_TOO_LOW",
            f"this method requires the role {minimum.name.lower()};"
            f" the credential has {principal.role.name.lower()}",
        )
