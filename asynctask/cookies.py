"""treq without cookies, which nobody here keeps: it fails at those that are no ASCII."""

from twisted.internet.defer import Deferred
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer


@implementer(IAgent)
class WithoutCookies:
    """An agent whose answers set none."""

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
