"""The read-only mode: refuses calls that change anything."""

from typing import NoReturn

from google.protobuf.descriptor import MethodDescriptor

from palaver_server.auth.roles import reads_only
from palaver_server.errors import ServerReadOnly
from palaver_server.interceptors.interceptor import IncomingCall, StartCall, full_name


class ReadOnly:
    """The interceptor of a server that changes nothing. It comes after Authorization."""

    def intercept(self, method: MethodDescriptor) -> StartCall | None:
        """Return a function that refuses each call, unless the method only reads."""
        return None if reads_only(full_name(method)) else _refuse


def _refuse(_call: IncomingCall) -> NoReturn:
    raise ServerReadOnly
