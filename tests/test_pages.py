"""What README and docs say: links that lead on, options, and numbers that are those of the code."""

import re
from itertools import chain
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from asynctask import (
    api,
    backlog,
    channel,
    deadlines,
    deliveries,
    door,
    fairqueue,
    followers,
    heads,
    heartbeat,
    logqueue,
    logs,
    loop,
    maintenance,
    model,
    outbox,
    pgserver,
    places,
    posting,
    readers,
    retention,
    runner,
    sharing,
    sse,
    statements,
    supervisor,
    watchdog,
    wire,
)
from asynctask.options import PARAMETERS, Options
from asynctask.seats import REACTOR
from tests.pages import PAGES, ROOT, text

SAID = {
    "docs/callbacks.md": (
        f"there are {posting.DEADLINE:g} seconds for all of it",
        f"The second try comes after {deliveries.FIRST:g} seconds",
        f"up to {deliveries.LONGEST / 3_600:g} hours",
        f"One host has at most {fairqueue.A_HOST} connections, all together {fairqueue.AT_ONCE};",
        f"{fairqueue.AT_ONCE // fairqueue.PART} of them are only for hosts that answered the last time, "
        f"and {fairqueue.AT_ONCE // fairqueue.PART} more not for those that kept us waiting",
        f"the others of a PostgreSQL tell {outbox.LEASE:g} seconds later",
    ),
    "docs/handlers.md": (
        f"Steps of more than {runner.BLOCKING:g} ms are named",
        f"it goes on for {runner.UNWIND:g} seconds",
        f"when {places.MAX_ABANDONED} hang, tasks for threads are refused",
        f"when {loop.MAX_HELD} are held, tasks for asyncio are refused",
    ),
    "docs/http.md": (
        f"strict JSON in UTF-8 of at most {door.MAX_BODY >> 10} KiB",
        f"or {channel.MOST_COMING >> 20} MiB of bodies are on their way",
        f"`ResultTooLarge` (over {wire.MAX_RESULT >> 20} MiB)",
        f"gives the first 202 again, for {model.KEY_KEPT // 3_600} hours",
        f"history the first {statements.KEPT_CHANGES:,} changes are kept",
        f"or the last {retention.MOST_EVENTS >> 20} MiB of them",
        f"processes the progress is told of up to {sharing.HEARD:,}",
        f"A comment comes every {sse.COMMENT_EVERY:g} seconds",
        f"Who reads nothing for {followers.PATIENCE:g} seconds is dropped",
        f"every bad field (the first {wire.MAX_ERRORS:,})",
        f"not complete {deadlines.HEAD_TIME} seconds after its first byte",
        f"the head is over {heads.MAX_HEAD >> 10} KiB or {heads.MAX_FIELDS} fields",
        f"{api.MAX_FOLLOWERS:,} clients follow events already",
    ),
    "docs/operating.md": (
        f"holds the reactor for more than {runner.BLOCKING:g} ms is named",
        f"does not end within {runner.UNWIND:g} seconds",
        f"when {places.MAX_ABANDONED} of them hang",
        f"up to {logqueue.MAX_WAITING:,} wait, the rest is lost",
        f"is rotated at {logs.ROTATE_AT // 1_000_000} MB",
    ),
    "docs/scale.md": (
        f"one that has not {supervisor.LAST:g} seconds after its `--grace` is killed",
        f"`--grace` and {supervisor.LAST:g} seconds more",
        f"then two, up to {supervisor.LONGEST_PAUSE:g}",
        f"a statement ends after {pgserver.PATIENCE:g} seconds",
        f"wait in memory, {backlog.MAX_KEPT >> 20} MiB of them",
        f"that says nothing for {readers.LONGEST:g} is cut",
        f"each beats at least every {heartbeat.LONGEST_PAUSE:g} seconds",
    ),
}
"""What pages say of numbers that other tests only call by their names."""

IN_WORDS = {
    "one that holds it for more than a second has its stack": watchdog.HELD == 1,
    "how late the reactor's heartbeat came, five times a second": watchdog.LOOK == 0.2,
    "drawn out by up to a quarter by chance": deliveries.JITTER == 0.25,
    "and ten old ones are kept": logs.FILES_KEPT == 10,
    "a body makes no progress for a minute, or is not whole after five": (
        (deadlines.STALL, deadlines.BODY_TIME) == (60, 300)
    ),
    "before the service does, after 75 seconds: nginx and others do so after 60": deadlines.IDLE == 75,
    "for a tenth of a second at a time": maintenance.ENOUGH == 0.1,
    "a day of it, or 256 MiB": retention.EVENTS_KEPT == 86_400,
    "still has what is answered within two seconds": deadlines.LEAVING == 2,
    "The last try is three days after the end": deliveries.GIVE_UP == 3 * 86_400,
    "After a minute of life the next pause is a second again": (
        (supervisor.SOUND, supervisor.FIRST_PAUSE) == (60, 1)
    ),
}
"""The same of what is said in words."""


def anchors(page: Path) -> set[str]:
    """What links may name in a page: its headings, as GitHub does."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


class PagesTests(SynchronousTestCase):
    """Whatever a page names is there, and as it says."""

    def test_links_lead_somewhere(self) -> None:
        for page in PAGES:
            for link, heading in re.findall(r"\]\((?!http)([^)#]*)#?([^)]*)\)", page.read_text("utf-8")):
                there = page.parent / link if link else page
                self.assertTrue(there.exists(), f"{page.name}: {link}")
                if heading:
                    self.assertIn(heading, anchors(there), f"{page.name}: {link}")

    def test_the_table_of_files_names_what_is_there(self) -> None:
        [table] = re.findall(
            r"^\| \| \|\n(.*?)(?:\n\n|\Z)", text("CONTRIBUTING.md"), re.MULTILINE | re.DOTALL
        )
        named = re.findall(r"^\| `([^`]+)`(?:, `([^`]+)`)? \|", table, re.MULTILINE)
        self.assertGreater(len(named), 6)
        for path in chain.from_iterable(named):
            self.assertTrue((ROOT / path).exists(), path)

    def test_the_options_are_those_of_the_command_with_their_defaults(self) -> None:
        row = r"^\| (?:`-p`, )?`--([a-z-]+)` \| ?([^|]*)\|([^|]*)\|"
        rows = re.findall(row, text("docs/operating.md"), re.MULTILINE)
        options = Options({}).synonyms.keys() - {"help", "version", "p"}
        self.assertCountEqual([name for name, *_ in rows], options)
        defaults = {name: str(default) for name, _, default, _ in PARAMETERS if default is not None}
        defaults["concurrency"] = str(REACTOR)
        for name, variable, default in rows:
            if name != "show-callback-secret":
                self.assertRegex(variable, f"^`ASYNCTASK_{name.replace('-', '_').upper()}\\b")
            if name in defaults:
                self.assertEqual(re.sub("[`, ]", "", default), defaults[name], name)

    def test_its_numbers_are_those_of_the_code(self) -> None:
        read = {page: " ".join(text(page).split()) for page in SAID}
        for page, sentences in SAID.items():
            for sentence in sentences:
                self.assertIn(sentence, read[page], page)
        for sentence, is_true in IN_WORDS.items():
            self.assertIn(sentence, " ".join(read.values()))
            self.assertTrue(is_true, sentence)
