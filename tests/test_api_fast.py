"""Every test of the routes once more, over our own connection."""

from typing import Any

from treq.testing import StubTreq
from twisted.web.resource import Resource

from asynctask.answers import MAX_BATCH_BODY
from asynctask.api import Api
from asynctask.front import Front
from tests import (
    test_api,
    test_api_changes,
    test_api_repeats,
    test_description,
    test_followers,
    test_metrics,
)
from tests.test_api import ApiTestCase


class Fast:
    """Asks over our own connection."""

    clock: Any

    def front_of(self, api: Api) -> Any:
        return Front(api.routes(), MAX_BATCH_BODY, self.clock)

    def client_of(self, api: Api) -> Any:
        client: Any = StubTreq(Resource())
        client._agent._serverFactory = self.front_of(api)
        return client


for module in (
    test_api,
    test_api_changes,
    test_api_repeats,
    test_description,
    test_followers,
    test_metrics,
):
    for name, case in vars(module).items():
        if isinstance(case, type) and issubclass(case, ApiTestCase) and case.__module__ == module.__name__:
            globals()[f"Fast{name}"] = type(f"Fast{name}", (Fast, case), {"__module__": __name__})
