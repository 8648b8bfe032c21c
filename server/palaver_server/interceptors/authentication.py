"""Authentication: sets the principal of each call, and refuses calls without a valid credential."""

from google.protobuf.descriptor import MethodDescriptor

from palaver_server.auth.authenticator import Authenticator
from palaver_server.auth.principal import ACCESS, PRINCIPAL, Principal
from palaver_server.call_context import running_call
from palaver_server.errors import Unauthenticated
from palaver_server.interceptors.interceptor import Context, IncomingCall, StartCall


class Authentication:
    """The interceptor that sets the principal of each call.

    Args:
        authenticator: Checks the credential of a call.

    Attributes:
        peers: The peers of authenticated calls; the owner of their connections removes them.
    """

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator
        self.peers: set[str] = set()

    def intercept(self, _method: MethodDescriptor) -> StartCall:
        """Return a function that authenticates a call."""
        return self._authenticate

    async def _authenticate(self, incoming: IncomingCall) -> None:
        principal = await self._principal(incoming.context)
        PRINCIPAL.set(principal)
        ACCESS.set(principal.access)
        call = running_call.get()
        call.principal = principal.name
        self.peers.add(call.peer)

    async def _principal(self, context: Context) -> Principal:
        authorizations = [
            value for key, value in context.invocation_metadata() or () if key == "authorization"
        ]
        match authorizations:
            case []:
                return await self._authenticator.authenticate(None, _subject(context))
            case [str(authorization)]:
                return await self._authenticator.authenticate(authorization, None)
            case _:
                raise Unauthenticated(
                    f"authorization: must be given once; got {len(authorizations)} values"
                )


def _subject(context: Context) -> str | None:
    """Return the subject of the client certificate that TLS verified; None without one."""
    for subject in context.auth_context().get("x509_subject", ()):
        return bytes(subject).decode()
    return None
