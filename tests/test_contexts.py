"""What a handler is told of its attempt."""

from typing import Any

from asynctask.context import Context
from asynctask.model import (
    COMPLETED,
    FAILED,
    Submission,
    accept,
)
from tests.running import START, EndsTestCase


class Contexts(EndsTestCase):
    """What a handler is told of its attempt."""

    TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

    def submit_traced(self, timeout: float | None) -> str:
        new = Submission("a", "simulate", "{}", timeout=timeout)
        task = accept(new, self.ids.next(self.now(), bytes(16)), self.now(), self.TRACE)
        self.seats.reserve(self.kinds["simulate"], 1)
        self.turns.outcome(self.store.add([], [task]))
        self.settle()
        return task.task_id

    def test_it_knows_the_attempt_in_every_place(self) -> None:
        seen: list[Context] = []

        async def on_loop(context: Context) -> None:
            seen.append(context)
            context.log.info("Looked at {what}", what="it")

        def in_thread(*, context: Context | None = None) -> None:
            assert context is not None
            seen.append(context)
            context.log.info("Looked at {what}", what="it")

        for place in ("reactor", "asyncio", "thread"):
            self.with_handler(in_thread if place == "thread" else on_loop, place=place)
            task_id = self.submit_traced(timeout=20.0)
            self.assertEqual(self.until_ended(task_id).status, COMPLETED)
            context = seen.pop()
            self.assertEqual((context.task_id, context.attempt), (task_id, 1))
            self.assertEqual((context.deadline, context.traceparent), (START + 20, self.TRACE))
            self.assertFalse(context.cancelled)
            event = self.logged("Looked at {what}")[-1]
            self.assertEqual(
                (event["task_id"], event["traceparent"], event["what"]), (task_id, self.TRACE, "it")
            )

    def test_without_a_timeout_there_is_no_deadline(self) -> None:
        seen: list[Context] = []

        async def handler(it: Context) -> None:
            seen.append(it)

        self.with_handler(handler)
        self.submit(None)
        self.assertEqual((seen[0].deadline, seen[0].traceparent), (None, None))

    def test_a_deadline_is_of_the_attempt(self) -> None:
        deadlines: list[float | None] = []

        async def handler(context: Context) -> None:
            deadlines.append(context.deadline)
            raise ValueError("no")

        self.with_handler(handler)
        self.submit(None, timeout=10.0, retries=1)
        self.advance(2)
        self.assertEqual(deadlines, [START + 10, START + 12])
        self.fails(ValueError)

    def test_progress_with_words_is_kept_and_logged(self) -> None:
        async def handler(context: Context) -> None:
            context.progress(1, 2, "half\0 of it\ud800" + "." * 2_000)

        self.with_handler(handler)
        progress = self.get(self.submit(None)).progress
        assert progress is not None
        self.assertTrue(progress.message.startswith("half\u2400 of it?..."))
        self.assertEqual(len(progress.message), 1_000)
        (told,) = self.logged("Task progress")
        self.assertEqual((told["step"], told["total"], told["text"]), (1, 2, progress.message))

    def test_progress_that_is_none_fails_the_attempt(self) -> None:
        wrong: list[tuple[tuple[Any, ...], str]] = [
            ((1.5, 2), "TypeError"),
            ((1, "2"), "TypeError"),
            ((1, 2, 3), "TypeError"),
            ((2**53 + 1, 2), "ValueError"),
            ((1, -(2**60)), "ValueError"),
        ]
        for given, error in wrong:

            async def handler(context: Context, given: Any = given) -> None:
                context.progress(*given)

            self.with_handler(handler)
            self.assertEqual(self.outcome(self.submit(None)), (FAILED, error, 1))
        self.fails(TypeError, 3)
        self.fails(ValueError, 2)

    def test_only_the_reactor_has_a_clock(self) -> None:
        clocks: list[object] = []

        async def handler(context: Context) -> None:
            clocks.append(context.clock)

        self.with_handler(handler)
        self.submit(None)
        self.assertEqual(clocks, [self.clock])
        self.with_handler(handler, place="asyncio")
        self.until_ended(task_id := self.submit(None))
        self.assertEqual(self.outcome(task_id), (FAILED, "RuntimeError", 1))
        self.fails(RuntimeError)
