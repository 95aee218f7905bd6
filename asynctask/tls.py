"""TLS to a host: its certificate must be trusted, and name this host.

Twisted's own check asks for both, but lets a trusted certificate through in which it finds no name that it
can compare: none at all, only an email address, a wildcard for a whole domain. Here that is another host's
(RFC 9525 §6.2: the names in the certificate are what counts, and one has to match).
"""

from typing import Any

from OpenSSL import SSL
from OpenSSL.crypto import X509
from service_identity.hazmat import DNS_ID, IPAddress_ID, verify_service_identity
from service_identity.pyopenssl import extract_patterns
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.ssl import optionsForClientTLS
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from twisted.web.iweb import IPolicyForHTTPS
from zope.interface import implementer


class NotTheHostError(Exception):
    """A trusted certificate does not name the host that it was asked of."""


@implementer(IOpenSSLClientConnectionCreator)
class Named:
    """Connections to the host of this name or address.

    :param trust_root: who is believed; None for those whom the system believes.
    :raises UnicodeError: no host of this name can have a certificate.
    """

    def __init__(self, host: str, trust_root: Any = None) -> None:
        self._options = optionsForClientTLS(host, trust_root)
        by_address = isIPAddress(host) or isIPv6Address(host)
        self._host = IPAddress_ID(host) if by_address else DNS_ID(host)

    def clientConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """See `twisted.internet.interfaces.IOpenSSLClientConnectionCreator`."""
        connection: SSL.Connection = self._options.clientConnectionForTLS(protocol)

        def verify(_: SSL.Connection, certificate: X509, _error: int, depth: int, trusted: int) -> bool:
            if depth or not trusted:  # those above it need no name
                return bool(trusted)
            try:
                verify_service_identity(extract_patterns(certificate), [self._host], [])
            except Exception:  # it may have anything where names belong
                protocol.failVerification(Failure(NotTheHostError()))
                return False
            return True

        connection.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, verify)
        return connection


@implementer(IPolicyForHTTPS)
class NamedHosts:
    """What an `twisted.web.client.Agent` secures its connections with."""

    def creatorForNetloc(self, hostname: bytes, _port: int) -> Named:
        """See `twisted.web.iweb.IPolicyForHTTPS`."""
        return Named(hostname.decode("ascii"))
