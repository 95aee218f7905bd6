"""A Deferred that waits for the real end."""

from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from asynctask.patient import Patient


class PatientTests(SynchronousTestCase):
    """What a cancel does, and what does not."""

    def setUp(self) -> None:
        self.asked: list[str] = []
        self.patient = Patient(lambda: self.asked.append("end"))

    def test_a_cancel_asks_and_waits(self) -> None:
        self.patient.cancel()
        self.assertEqual(self.asked, ["end"])
        self.assertNoResult(self.patient)
        self.patient.end("the real end")
        self.assertEqual(self.successResultOf(self.patient), "the real end")

    def test_a_cancel_reaches_it_from_what_waits_for_it(self) -> None:
        @inlineCallbacks
        def waiting() -> Any:
            return (yield self.patient)

        outer = waiting()
        outer.cancel()
        self.assertEqual(self.asked, ["end"])
        self.assertNoResult(outer)
        self.patient.end("the real end")
        self.assertEqual(self.successResultOf(outer), "the real end")

    def test_a_cancel_after_the_end_asks_nobody(self) -> None:
        self.patient.end(None)
        self.patient.cancel()
        self.assertEqual(self.asked, [])

    def test_a_cancel_after_the_end_reaches_what_a_callback_waits_for(self) -> None:
        inner: Deferred[None] = Deferred(lambda _deferred: self.asked.append("inner"))
        self.patient.addCallback(lambda _result: inner)
        self.patient.end(None)
        self.patient.cancel()
        self.assertEqual(self.asked, ["inner"])
        self.failureResultOf(self.patient)

    def test_it_can_end_with_a_failure(self) -> None:
        self.patient.end(Failure(ValueError("no")))
        self.failureResultOf(self.patient, ValueError)

    def test_a_deferred_of_another_thread_is_refused(self) -> None:
        self.patient.end(Deferred())
        failure = self.failureResultOf(self.patient, TypeError)
        self.assertIn("cannot return a Deferred", failure.getErrorMessage())
