"""Signs callbacks as Standard Webhooks has it: https://www.standardwebhooks.com, "Signature scheme"."""

import base64
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_bytes
from typing import Final

from standardwebhooks import Webhook

PREFIX: Final = "whsec_"
SHORTEST, LONGEST = 24, 64
"""Bytes of a secret, by the specification."""

MAX_FILE: Final = 64 * 1024
"""Bytes of a file of secrets: what is longer is another file."""


class SecretError(Exception):
    """A secret cannot be used; the message is one sentence that does not show it."""


def new_secret() -> str:
    """Draw a secret."""
    return PREFIX + base64.b64encode(token_bytes(SHORTEST)).decode()


def read_secrets(path: Path) -> list[str]:
    """The secrets of a file, one a line; empty lines and those that begin with ``#`` are none.

    :raises SecretError: it cannot be read, or has none, or one that is wrong.
    """
    try:
        with path.open(encoding="ascii", errors="replace") as file:
            text = file.read(MAX_FILE)
    except OSError as error:
        raise SecretError(f"--callback-secret {path} cannot be read ({error.strerror})") from None
    lines = ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1))
    secrets = {number: line for number, line in lines if line and not line.startswith("#")}
    if not secrets:
        raise SecretError(f"--callback-secret {path} has no secret in it")
    for number, secret in secrets.items():
        if not _is_secret(secret):
            raise SecretError(
                f"--callback-secret {path}: line {number} is no secret, "
                f"which is {PREFIX} before the base64 of {SHORTEST} to {LONGEST} bytes"
            )
    return list(secrets.values())


def _is_secret(text: str) -> bool:
    try:
        decoded = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except ValueError:
        return False
    return text.startswith(PREFIX) and SHORTEST <= len(decoded) <= LONGEST


class Signer:
    """Signs with the first of some secrets; the others are for whoever still verifies with them."""

    def __init__(self, secrets: Sequence[str]) -> None:
        self._webhook = Webhook(secrets[0])

    def headers(self, webhook_id: str, now: float, body: str) -> dict[str, str]:
        """The three headers of a body that is sent now, seconds since the epoch."""
        second = datetime.fromtimestamp(int(now), UTC)
        return {
            "webhook-id": webhook_id,
            "webhook-timestamp": str(int(now)),
            "webhook-signature": self._webhook.sign(webhook_id, second, body),
        }
