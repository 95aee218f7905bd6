"""What treq is given, where its own ways are not ours: URLs as they are, and agents that hide fields."""

from collections.abc import Mapping, Sequence

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
class Hiding:
    """An agent that hides fields of its answers from treq.

    :param hidden: names of these. Cookies, which nobody here keeps: treq fails at those that are no ASCII.
    :param instead: what is asked with, in place of what treq asks.
    """

    def __init__(self, agent: IAgent, hidden: Sequence[bytes], instead: Mapping[bytes, bytes] = {}) -> None:
        self._agent = agent
        self._hidden = hidden
        self._instead = instead

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]:
        """See `twisted.web.iweb.IAgent`."""
        asked = Headers() if headers is None else headers.copy()
        for name, value in self._instead.items():
            asked.setRawHeaders(name, [value])
        return self._agent.request(method, uri, asked, bodyProducer).addCallback(self._hide)

    def _hide(self, response: IResponse) -> IResponse:
        for name in self._hidden:
            response.headers.removeHeader(name)
        return response
