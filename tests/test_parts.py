"""A dict in parts is a dict."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from asynctask.parts import PARTS, Parts

KEYS = st.sampled_from([f"task_{number}" for number in range(5)])


class PartsTests(SynchronousTestCase):
    """`Parts`."""

    @given(st.lists(st.tuples(KEYS, st.integers(0) | st.none())))
    def test_it_does_what_a_dict_does(self, steps: list[tuple[str, int | None]]) -> None:
        parts: Parts[int] = Parts()
        like: dict[str, int] = {}
        for key, value in steps:
            if value is not None:
                parts.put(key, value)
                like[key] = value
            elif key in like:
                parts.drop(key, -1_000)
                self.assertEqual(parts.get(key), like[key])
                parts.drop(key, like.pop(key))
            else:
                parts.drop(key, 0)
            self.assertEqual(parts.get(key), like.get(key))
            self.assertEqual((len(parts), sorted(parts.values())), (len(like), sorted(like.values())))
            self.assertEqual(bool(parts), bool(like))

    def test_each_part_has_about_as_many(self) -> None:
        parts: Parts[int] = Parts()
        for number in range(100 * PARTS):
            parts.put(f"task_{number}", number)
        self.assertLess(max(map(len, parts._parts)), 200)
