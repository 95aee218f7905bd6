"""The tests: ``python -m twisted.trial tests``.

Hypothesis tries the same few examples of each property every time. To let it look for more, and to
see the example that broke one, which trial does not show:
``ASYNCTASK_HYPOTHESIS_EXAMPLES=5000 python -m unittest tests.test_wire_bodies``.
"""

import os
import signal
from typing import Final

from hypothesis import settings

_EXAMPLES: Final = os.environ.get("ASYNCTASK_HYPOTHESIS_EXAMPLES")

settings.register_profile(
    "asynctask",
    max_examples=int(_EXAMPLES or 50),
    derandomize=not _EXAMPLES,
    # A busy machine is no failure.
    deadline=None,
    # It would be a folder in the working directory, which trial empties.
    database=None,
    print_blob=True,
)
settings.load_profile("asynctask")

if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    # As under nohup: services that tests start would inherit that, but not a handler.
    signal.signal(signal.SIGHUP, lambda _number, _frame: None)
