"""Authorization: refuses calls that the caller's role does not permit."""

from collections.abc import AsyncGenerator, Awaitable

from palaver_server.auth.principal import PRINCIPAL
from palaver_server.auth.roles import POLICY
from palaver_server.errors import PermissionDenied
from palaver_server.interceptors.chain import Context, StreamCall, UnaryCall


class Authorization:
    """Checks the caller's role against the policy. It comes after Authentication."""

    def unary(self, method: str, call: UnaryCall) -> UnaryCall:
        """Wrap a method with one response."""

        def authorized(request: bytes, context: Context) -> Awaitable[bytes]:
            _check(method)
            return call(request, context)

        return authorized

    def stream(self, method: str, call: StreamCall) -> StreamCall:
        """Wrap a method with a stream of responses."""

        def authorized(request: bytes, context: Context) -> AsyncGenerator[bytes, None]:
            _check(method)
            return call(request, context)

        return authorized


def _check(method: str) -> None:
    principal, minimum = PRINCIPAL.get(), POLICY.get(method)
    if principal is None or minimum is None:
        raise PermissionDenied("NOT_ALLOWED", "no role may call this method")
    if principal.role < minimum:
        raise PermissionDenied(
            "ROLE_TOO_LOW",
            f"this method requires the role {minimum.name.lower()};"
            f" the credential has {principal.role.name.lower()}",
        )
