"""What signs callbacks, and who can verify it."""

import time
from base64 import b64encode
from pathlib import Path

from standardwebhooks import Webhook, WebhookVerificationError
from twisted.trial.unittest import SynchronousTestCase

from asynctask.signing import SecretError, Signer, new_secret, read_secrets


def secret(size: int) -> str:
    return "whsec_" + b64encode(b"s" * size).decode()


class SignerTests(SynchronousTestCase):
    """The headers of a delivery."""

    def test_the_receiver_verifies_it_with_the_package(self) -> None:
        key, body = new_secret(), '{"name":"ü"}'
        headers = Signer([key]).headers("task_1.1", time.time(), body)
        self.assertEqual(headers["webhook-id"], "task_1.1")
        self.assertEqual(Webhook(key).verify(body.encode(), headers), {"name": "ü"})

    def test_another_body_id_or_secret_is_not_verified(self) -> None:
        key, body = new_secret(), "{}"
        headers = Signer([key]).headers("task_1.1", time.time(), body)
        for verifier, text, given in (
            (key, "{ }", headers),
            (key, body, headers | {"webhook-id": "task_1.2"}),
            (new_secret(), body, headers),
        ):
            self.assertRaises(WebhookVerificationError, Webhook(verifier).verify, text, given)

    def test_the_first_secret_signs(self) -> None:
        first, second = new_secret(), new_secret()
        headers = Signer([first, second]).headers("a", time.time(), "{}")
        self.assertEqual(Webhook(first).verify("{}", headers), {})
        self.assertRaises(WebhookVerificationError, Webhook(second).verify, "{}", headers)

    def test_a_time_has_no_fractions(self) -> None:
        self.assertEqual(Signer([new_secret()]).headers("a", 1.9, "{}")["webhook-timestamp"], "1")

    def test_no_two_secrets_are_alike(self) -> None:
        self.assertEqual(len({new_secret() for _ in range(100)}), 100)


class FileTests(SynchronousTestCase):
    """A file of secrets."""

    def read(self, text: str) -> list[str]:
        path = Path(self.mktemp())
        path.write_text(text, "utf-8")
        return read_secrets(path)

    def complaint(self, text: str) -> str:
        path = Path(self.mktemp())
        path.write_text(text, "utf-8")
        told = str(self.assertRaises(SecretError, read_secrets, path))
        self.assertEqual(told.splitlines(), [told])
        return told

    def test_a_secret_a_line(self) -> None:
        keys = [secret(24), secret(64), new_secret()]
        self.assertEqual(self.read("# ours\n\n" + "\r\n".join(keys)), keys)

    def test_a_file_that_is_not_there(self) -> None:
        refusal = self.assertRaises(SecretError, read_secrets, Path(self.mktemp()))
        self.assertIn("--callback-secret", str(refusal))
        self.assertIn("No such file", str(refusal))

    def test_a_file_without_a_secret(self) -> None:
        for text in ("", "\n \n", "# whsec_\n"):
            self.assertIn("no secret in it", self.complaint(text))

    def test_a_secret_that_is_none_is_named_by_its_line_and_not_shown(self) -> None:
        for wrong in ("hunter2", "whsec_", "whsec_hunter2!", secret(23), secret(65), secret(24) + "ü"):
            told = self.complaint(f"{new_secret()}\n{wrong}")
            self.assertIn("line 2", told)
            self.assertNotIn("hunter2", told)
