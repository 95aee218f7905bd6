"""The life of a task leaves nothing for the garbage collector, which may then be kept from looking."""

import gc

from tests.test_api import ApiTestCase

TASKS = 50


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
        gc.disable()
        self.addCleanup(gc.enable)
        gc.set_debug(gc.DEBUG_SAVEALL)
        self.addCleanup(gc.garbage.clear)
        self.addCleanup(gc.set_debug, 0)
        self.live()
        gc.collect()
        ours = [one for one in gc.garbage if type(one).__module__.startswith("asynctask")]
        self.assertEqual(ours, [])
