"""twisted.web's connection, with a limit on bodies and a quiet end."""

from typing import Any

from twisted.trial.unittest import TestCase
from twisted.web.resource import Resource

from asynctask.answers import answer_too_large
from asynctask.stock import Front
from tests.channel_contract import LIMIT, ChannelContract


class StockTests(ChannelContract, TestCase):
    """`--http twisted.web`."""

    def front_of(self, resource: Resource) -> Any:
        return Front(resource, LIMIT, answer_too_large)
