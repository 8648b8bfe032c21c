"""Client certificates: refuses calls over connections whose client certificate has expired."""

from google.protobuf.descriptor import MethodDescriptor

from palaver_server.auth.certificate_validity import check_not_expired
from palaver_server.interceptors.interceptor import IncomingCall, StartCall


class ClientCertificates:
    """The check of a call's client certificate, also if it has another credential."""

    def intercept(self, _method: MethodDescriptor) -> StartCall:
        """Return a function that checks the certificate of a call."""
        return self._check

    def _check(self, call: IncomingCall) -> None:
        for certificate in call.context.auth_context().get("x509_pem_cert", ()):
            check_not_expired(bytes(certificate))
