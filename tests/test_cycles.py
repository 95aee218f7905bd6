"""The life of a task leaves nothing for the garbage collector, which may then be kept from looking."""

import gc
from pathlib import Path
from types import CodeType

import asynctask
from tests.test_api import ApiTestCase

TASKS = 50
OURS = str(Path(asynctask.__file__).parent)


def is_ours(one: object) -> bool:
    """Whether it is of a class of ours, or a function, a coroutine or a generator of ours."""
    codes = (getattr(one, name, None) for name in ("__code__", "cr_code", "gi_code"))
    files = [code.co_filename for code in codes if isinstance(code, CodeType)]
    return type(one).__module__.startswith("asynctask") or any(file.startswith(OURS) for file in files)


class CyclesTests(ApiTestCase):
    """With the collector off."""

    def live(self) -> None:
        """Tasks from their POST to their end."""
        for _ in range(TASKS):
            self.have_accepted(2)
        self.advance(3)
        self.assertEqual(self.store.unfinished, 0)

    def have_accepted(self, duration: int) -> None:
        body = b'{"name":"a","duration":%d}' % duration
        answer = self.request("POST", "/api/tasks", body, Content_Type="application/json")
        self.assertEqual(answer.status, 202)

    def test_tasks_that_succeed_make_no_cycles(self) -> None:
        self.live()  # what is made once
        gc.collect()
        earlier = gc.get_objects()  # held: what an earlier test has left may be garbage only now
        gc.disable()
        self.addCleanup(gc.enable)
        gc.set_debug(gc.DEBUG_SAVEALL)
        self.addCleanup(gc.garbage.clear)
        self.addCleanup(gc.set_debug, 0)
        self.live()
        gc.collect()
        self.assertEqual([one for one in gc.garbage if is_ours(one)], [])
        del earlier
