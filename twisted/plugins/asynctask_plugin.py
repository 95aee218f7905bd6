"""Tells twistd of the service."""

import gc
import sys
from typing import Any

from twisted.application.service import ServiceMaker


class _Maker(ServiceMaker):
    @property
    def options(self) -> Any:
        """See `twisted.application.service.IServiceMaker`.

        It imports all modules, and what they make lives as long as the process: the garbage collector would
        look at it again and again, for a tenth of the start.
        """
        collects = gc.isenabled()
        gc.disable()
        try:
            return super().options
        except KeyboardInterrupt:
            sys.exit("asynctask: Interrupted before it had started")
        finally:
            if collects:
                gc.freeze()
                gc.enable()


asynctask = _Maker(
    "asynctask",
    "asynctask.service",
    "Take tasks at POST /api/tasks on port 8080, answer 202, and run them in the background.",
    "asynctask",
)
