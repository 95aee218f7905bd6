"""For schemathesis (`SCHEMATHESIS_HOOKS`), which knows nothing of keys that were used before.

A key that comes twice is answered 422, or with the 202 of a task that may have been deleted since.
"""

from typing import Any
from uuid import uuid4

import schemathesis  # type: ignore[import-not-found, unused-ignore]

from asynctask.headers import MAX_KEY


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Make every valid key another one, of the same length if it can be."""
    key = (case.headers or {}).get("Idempotency-Key")
    if isinstance(key, str) and 1 <= len(key.strip()) <= MAX_KEY and key != '""':
        case.headers["Idempotency-Key"] = str(uuid4()) + key[36:]
