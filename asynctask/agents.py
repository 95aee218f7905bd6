"""What treq is given, where its own ways are not ours: URLs as they are, and agents without cookies."""

from hyperlink import EncodedURL
from twisted.internet.defer import Deferred
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer


class AsGiven(EncodedURL):
    """A URL that is ASCII already: IDNA would refuse its IPv6 address, or the underscore in its host."""

    def to_uri(self) -> EncodedURL:
        return self


@implementer(IAgent)
class WithoutCookies:
    """An agent whose answers set none: nobody here keeps any, and treq fails at those that are no ASCII."""

    def __init__(self, agent: IAgent) -> None:
        self._agent = agent

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]:
        """See `twisted.web.iweb.IAgent`."""
        return self._agent.request(method, uri, headers, bodyProducer).addCallback(_without)


def _without(response: IResponse) -> IResponse:
    response.headers.removeHeader(b"Set-Cookie")
    return response
