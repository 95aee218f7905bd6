"""What a client can understand of what went wrong."""

from twisted.trial.unittest import SynchronousTestCase

from asynctask import problems


class Problems(SynchronousTestCase):
    """What a client can understand."""

    def test_each_problem_has_the_status_of_the_contract(self) -> None:
        self.assertEqual(
            {
                kind.__name__: (kind.status, kind.title)
                for kind in (
                    *(problems.Problem, problems.Invalid, problems.Forbidden, problems.NotFound),
                    *(problems.MethodNotAllowed, problems.TooLarge, problems.UnsupportedMediaType),
                    *(problems.ExpectationFailed, problems.Unavailable, problems.OutcomeUnknown),
                )
            },
            {
                "Problem": (500, "Internal Server Error"),
                "Invalid": (400, "Bad Request"),
                "Forbidden": (403, "Forbidden"),
                "NotFound": (404, "Not Found"),
                "MethodNotAllowed": (405, "Method Not Allowed"),
                "TooLarge": (413, "Content Too Large"),
                "UnsupportedMediaType": (415, "Unsupported Media Type"),
                "ExpectationFailed": (417, "Expectation Failed"),
                "Unavailable": (503, "Service Unavailable"),
                "OutcomeUnknown": (503, "Service Unavailable"),
            },
        )

    def test_only_an_unknown_outcome_has_a_type_of_its_own(self) -> None:
        self.assertEqual(problems.Unavailable("Full").type, "about:blank")
        self.assertTrue(problems.OutcomeUnknown("Perhaps").type.endswith("/outcome-unknown"))

    def test_a_503_says_when_to_come_again(self) -> None:
        self.assertEqual(problems.Unavailable("Full").headers, (("Retry-After", "1"),))
        self.assertEqual(problems.OutcomeUnknown("Perhaps", 7).headers, (("Retry-After", "7"),))

    def test_a_problem_keeps_what_is_wrong(self) -> None:
        errors = (problems.FieldError("No", "/name"),)
        problem = problems.Invalid("No", errors, (("Allow", "GET"),))
        self.assertEqual((problem.detail, problem.errors), ("No", errors))
        self.assertEqual(problem.headers, (("Allow", "GET"),))
        self.assertEqual(str(problem), "No")
