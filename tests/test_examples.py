"""The examples and the code of docs/handlers.md, as a newcomer would try them on the real service."""

import ast
import atexit
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from errno import ENXIO
from functools import cache
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import mkdtemp
from threading import Thread
from typing import Any, ClassVar

from PIL import Image
from twisted.trial.unittest import SynchronousTestCase

from tests.faults.client import Json
from tests.faults.server import Server
from tests.pages import ROOT, blocks

EXAMPLES = ("thumbnails", "report", "pages", "pages_asyncio")
PAGE = "docs/handlers.md"
ENDED = ("completed", "failed", "cancelled")


def named(number: int, code: str) -> str:
    """The name of a sample's module."""
    comment = re.match(r"# (\w+)\.py\n", code)
    return comment[1] if comment else f"sample{number}"


SAMPLES = {
    named(number, code): code for number, code in enumerate(blocks(PAGE, "python")) if "@task" in code
}

TEXT = "once upon\na time"

TRIED: dict[str, tuple[Json, Any]] = {
    "words": ({"path": "text.txt", "least": 4}, {"words": 3}),
    "nap": ({"seconds": 0.01}, "rested"),
    "asyncio_nap": ({"seconds": 0.01}, "rested"),
    "largest_prime": ({"below": 100}, 97),
    "order": (
        {
            "to": {"city": "Bonn"},
            "lines": [{"article": "A1"}, {"article": "B", "amount": 2}],
            "on": "2026-11-24",
        },
        "3 to Bonn (DE) by post in 2026",
    ),
    "collect": ({"path": "text.txt"}, 2),
    "poll": ({"times": 1}, 1),
    "checksum": ({"path": "text.txt"}, sha256(TEXT.encode()).hexdigest()),
    "add": ({"numbers": [1, 2, 4]}, {"total": 7, "largest": 4}),
}
"""An input for each handler of the page, and its result; `receipt` has a test of its own."""


class Site(BaseHTTPRequestHandler):
    """A site with a page, with one that is not there, and with one that fails at first."""

    flaky: ClassVar[set[str | None]] = set()
    page = b"<html><head><TITLE lang=en>\nSalt &amp; Pepper </TITLE></head>" + b"x" * 100_000

    def do_GET(self) -> None:
        if self.path.startswith("/flaky") and self.path not in self.flaky:
            self.flaky.add(self.path)
            self.answer(503, b"")
        elif self.path == "/none":
            self.answer(404, b"nothing")
        elif self.path == "/moved":
            self.send_response(301)
            self.send_header("Location", "/")
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self.answer(200, self.page)

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@cache
def site() -> str:
    """Its address, without the last slash."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    server.daemon_threads = True
    Thread(target=server.serve_forever, daemon=True).start()
    atexit.register(server.server_close)
    return f"http://127.0.0.1:{server.server_port}"


@cache
def service() -> tuple[Server, Path]:
    """The service with all of them, in a copy of the examples' folder; started only once."""
    folder = Path(mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name in EXAMPLES:
        shutil.copy(ROOT / "examples" / f"{name}.py", folder)
    for name, code in SAMPLES.items():
        (folder / f"{name}.py").write_text(code, "utf-8")
    options = [f"--tasks={name}" for name in (*EXAMPLES, *SAMPLES)]
    # What the machine has for going out is not for going to ourselves.
    server = Server(folder, options=options, env={"NO_PROXY": "*", "no_proxy": "*"})
    atexit.register(server.__exit__)
    return server.ready(), folder


class ServiceTestCase(SynchronousTestCase):
    """What the tests share: the service, its folder, and posts as `curl` does them."""

    def setUp(self) -> None:
        self.server, self.folder = service()

    def url(self, path: str) -> str:
        return f"localhost:{self.server.port}{path}"

    def curl(self, *arguments: str) -> Json:
        """The answer, a task that ended or a problem; a 202 would have no `kind`."""
        done = subprocess.run(
            ["curl", "--silent", "--show-error", "--noproxy", "*", *arguments],
            capture_output=True,
            text=True,
            check=True,
        )
        answer: Json = json.loads(done.stdout)
        return answer

    def post(self, body: Json) -> Json:
        """What a POST that waits for the end gives."""
        return self.curl(
            *("-H", "Content-Type: application/json", "-H", "Prefer: wait=20"),
            self.url("/api/tasks"),
            *("-d", json.dumps(body)),
        )

    def shell(self, command: str) -> Json:
        """The answer to a command of a page."""
        command = command.replace("localhost:8080", f"localhost:{self.server.port}")
        script = "curl() { command curl --silent --show-error --noproxy '*' \"$@\"; }\n"
        done = subprocess.run(
            ["bash", "-ec", script + command], cwd=self.folder, capture_output=True, text=True, check=True
        )
        answer: Json = json.loads(done.stdout)
        return answer

    def run_task(self, kind: str, **given: Any) -> Json:
        """The task, at its end."""
        task = self.post({"name": "test", "kind": kind, "input": given})
        self.assertIn(task["status"], ENDED, task)
        return task

    def assert_refused(self, kind: str, detail: str, pointer: str, **given: Any) -> None:
        answer = self.post({"name": "test", "kind": kind, "input": given})
        self.assertEqual(answer["status"], 400, answer)
        self.assertIn({"detail": detail, "pointer": pointer}, answer["errors"])


class ExampleTestCase(ServiceTestCase):
    """One of the examples."""

    def example(self, name: str, site: str = "https://example.com") -> Json:
        """The task that the last command of its docstring gives; those before the start are run first."""
        first, command = self.commands(name)
        *before, start = map(str.strip, first.splitlines())
        for one in before:
            subprocess.run(one, shell=True, cwd=self.folder, check=True)  # of ours
        self.assertEqual(start, f"twistd -n asynctask --tasks {name}")
        task = self.shell(command.replace("https://example.com", site))
        self.assertEqual((task["kind"], task["status"]), (name, "completed"), task)
        return task

    def commands(self, name: str) -> list[str]:
        text = ast.get_docstring(ast.parse((ROOT / "examples" / f"{name}.py").read_text("utf-8"))) or ""
        return [block.strip() for block in re.findall(r"(?:^ {4}.*\n)+", text, re.MULTILINE)]


class FolderTests(SynchronousTestCase):
    """The folder itself."""

    def test_each_can_be_read_in_a_minute_and_is_in_the_table(self) -> None:
        table = (ROOT / "examples" / "README.md").read_text("utf-8")
        self.assertEqual({path.stem for path in (ROOT / "examples").glob("*.py")}, set(EXAMPLES))
        for name in EXAMPLES:
            self.assertLessEqual(
                len((ROOT / "examples" / f"{name}.py").read_text("utf-8").splitlines()), 82
            )
            self.assertIn(f"[{name}.py]({name}.py)", table)


class ThumbnailTests(ExampleTestCase):
    """Pillow, in a process."""

    def test_a_folder_of_images(self) -> None:
        photos = self.folder / "photos"
        photos.mkdir(exist_ok=True)
        Image.new("RGB", (640, 480), "red").save(photos / "a.jpg")
        Image.new("RGBA", (100, 300), "blue").save(photos / "b.png")
        turned = Image.Exif()
        turned[0x0112] = 6  # a quarter turn
        Image.new("RGB", (400, 200)).save(photos / "c.jpg", exif=turned)
        (photos / "broken.png").write_bytes((photos / "b.png").read_bytes()[:60])
        (photos / "notes.txt").write_text("no image")

        task = self.example("thumbnails")

        small = self.folder / "small"
        self.assertEqual({path.name for path in small.iterdir()}, {"a.jpg", "b.png", "c.jpg"})
        sizes = [Image.open(small / name).size for name in ("a.jpg", "b.png", "c.jpg")]
        self.assertEqual(sizes, [(120, 90), (40, 120), (60, 120)])
        written = sum(path.stat().st_size for path in small.iterdir())
        self.assertEqual(list(task["result"].pop("broken")), ["broken.png"])
        self.assertEqual(task["result"], {"thumbnails": 3, "bytes": written})
        self.assertEqual(task["progress"], {"step": 4, "total": 4, "message": "c.jpg"})

    def test_a_folder_that_it_cannot_take(self) -> None:
        task = self.run_task("thumbnails", folder="nowhere", target="small")
        self.assertEqual(task["error"], {"type": "Permanent", "message": "There is no folder 'nowhere'"})
        task = self.run_task("thumbnails", folder=".", target=".")
        self.assertIn("overwrite", task["error"]["message"])

    def test_a_size_out_of_bounds(self) -> None:
        detail = "Field 'input.size' must be an integer from 16 to 1024"
        self.assert_refused("thumbnails", detail, "/input/size", folder=".", target="x", size=5000)


class ReportTests(ExampleTestCase):
    """A CSV file, in a thread."""

    def write(self, name: str, rows: Sequence[Sequence[object]]) -> None:
        with (self.folder / name).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(rows)

    def test_sums_of_groups(self) -> None:
        task = self.example("report")
        totals = {"count": 3, "sum": 9, "mean": 3}
        result = {"path": "sales.report.markdown", "rows": 3, "skipped": 0, "totals": totals}
        self.assertEqual(task["result"], result)
        lines = (self.folder / "sales.report.markdown").read_text("utf-8").splitlines()
        self.assertEqual(lines[2:], ["| Bonn | 2 | 4.5 | 2.25 |", "| Kiel | 1 | 4.5 | 4.5 |"])

    def test_what_is_no_number_is_skipped(self) -> None:
        self.write(
            "odd.csv",
            [
                ["city", "note", "amount"],
                ["Bonn", "two\nlines", 1.5],
                ["Ulm", "", "-"],
                ["Bonn", "", 1000000],
            ],
        )
        task = self.run_task("report", path="odd.csv", group_by="city", value="amount", style="markdown")
        totals = {"count": 2, "sum": 1000001.5, "mean": 500000.75}
        result = {"path": "odd.report.markdown", "rows": 3, "skipped": 1, "totals": totals}
        self.assertEqual(task["result"], result)
        self.assertEqual(task["progress"], {"step": 3, "total": 3, "message": ""})
        lines = (self.folder / "odd.report.markdown").read_text("utf-8").splitlines()
        self.assertEqual(lines[0], "| city | count | sum | mean |")
        self.assertEqual(lines[2:], ["| Bonn | 2 | 1000001.5 | 500000.75 |"])

    def test_json_of_many_rows(self) -> None:
        self.write("many.csv", [["parity", "n"], *[[n % 2, n] for n in range(2_500)]])
        task = self.run_task("report", path="many.csv", group_by="parity", value="n")
        self.assertEqual(task["progress"]["step"], 2_500)
        report = json.loads((self.folder / task["result"]["path"]).read_text("utf-8"))
        self.assertEqual(report[1], {"group": "1", "count": 1250, "sum": 1562500, "mean": 1250})

    def test_what_is_missing_is_not_tried_again(self) -> None:
        self.write("few.csv", [["a", "b"]])
        for name, value, word in (("none.csv", "b", "No such file"), ("few.csv", "c", "no column c")):
            task = self.run_task("report", path=name, group_by="a", value=value)
            self.assertEqual((task["status"], task["attempt"]), ("failed", 1))
            self.assertEqual(task["error"]["type"], "Permanent")
            self.assertIn(word, task["error"]["message"])

    def test_a_style_that_there_is_not(self) -> None:
        detail = "Field 'input.style' must be one of 'json', 'markdown'"
        given = {"path": "x", "group_by": "a", "value": "b", "style": "pdf"}
        self.assert_refused("report", detail, "/input/style", **given)


class PagesTests(ExampleTestCase):
    """Pages of the web, on the reactor."""

    kind = "pages"

    def test_sizes_and_titles(self) -> None:
        task = self.example(self.kind, site())
        there, gone = task["result"]
        size = len(Site.page)
        expected = {"url": f"{site()}/", "status": 200, "bytes": size, "title": "Salt & Pepper"}
        self.assertEqual(there, expected)
        self.assertEqual((gone["status"], gone["title"]), (404, None))
        self.assertEqual((task["progress"]["step"], task["attempt"]), (2, 1))

    def test_more_than_at_once_and_a_redirect(self) -> None:
        task = self.run_task(self.kind, urls=[f"{site()}/moved"] + [f"{site()}/{n}" for n in range(20)])
        self.assertEqual({page["status"] for page in task["result"]}, {200})
        self.assertEqual([page["url"] for page in task["result"]][:2], [f"{site()}/moved", f"{site()}/0"])

    def test_a_site_that_fails_is_asked_again(self) -> None:
        Site.flaky.clear()
        task = self.run_task(self.kind, urls=[f"{site()}/flaky/{self.kind}", f"{site()}/"])
        self.assertEqual((task["status"], task["attempt"]), ("completed", 2), task)
        error = task["history"][2]["error"]
        self.assertEqual(error["type"], "NotFetchedError")
        self.assertIn(f"{site()}/flaky/{self.kind}: ", error["message"])
        self.assertIn("status 503", error["message"])

    def test_what_is_no_url(self) -> None:
        detail = "Field 'input.urls.1' must be a string that matches '^https?://'"
        self.assert_refused(self.kind, detail, "/input/urls/1", urls=["http://a", "file:///etc/passwd"])
        self.assert_refused(
            self.kind, "Field 'input.urls' must be an array of 1 to 100 items", "/input/urls", urls=[]
        )


class AsyncioPagesTests(PagesTests):
    """The same on the asyncio loop."""

    kind = "pages_asyncio"


class HandlersPageTests(ServiceTestCase):
    """The code of docs/handlers.md; that all of it can be loaded, the service's start has shown."""

    def setUp(self) -> None:
        super().setUp()
        (self.folder / "text.txt").write_text(TEXT)

    def test_each_handler_does_what_it_says(self) -> None:
        kinds = self.curl(self.url("/api/kinds"))["kinds"]
        shown = {one["kind"]: one["description"] for one in kinds}
        self.assertEqual(set(shown), {"simulate", "receipt", *EXAMPLES, *TRIED})
        self.assertNotIn(None, shown.values())
        for kind, (given, result) in TRIED.items():
            task = self.run_task(kind, **given)
            self.assertEqual((task["status"], task["result"]), ("completed", result), task)

    def test_its_first_commands_are_taken(self) -> None:
        (shell,) = blocks(PAGE, "sh")
        start, command = shell.strip().split("\n\n")
        self.assertEqual(start, "twistd -n asynctask --tasks words")
        (self.folder / "book.txt").write_text("once upon\na time there was\n")
        accepted = self.shell(command)
        task = self.curl("-H", "Prefer: wait=20", self.url(f"/api/tasks/{accepted['task_id']}"))
        self.assertEqual((task["status"], task["result"]), ("completed", {"words": 1}), task)

    def test_a_bad_input_is_answered_as_the_page_says(self) -> None:
        asked, answered = blocks(PAGE, "json")
        self.assertEqual(self.post(json.loads(asked)), json.loads(answered))

    def test_a_failure_is_tried_again_and_a_permanent_one_is_not(self) -> None:
        task = self.run_task("collect", path="book.pdf")
        self.assertEqual(
            (task["status"], task["attempt"], task["error"]["type"]), ("failed", 1, "Permanent")
        )
        given = {"path": "nowhere.txt"}
        task = self.post({"name": "test", "kind": "collect", "input": given, "retries": 2})
        self.assertEqual((task["status"], task["attempt"]), ("failed", 3))
        self.assertEqual(task["error"]["type"], "FileNotFoundError")

    def test_a_thread_ends_at_a_cancel_and_at_a_timeout(self) -> None:
        body = {"name": "test", "kind": "poll", "input": {"times": 1000}}
        task = self.post(body | {"timeout": 0.2})
        self.assertEqual((task["status"], task["error"]["type"]), ("failed", "Timeout"))
        with self.server.client() as client:
            where = client.post("/api/tasks", body).headers["location"]
            while client.get(where).body["progress"] is None:
                time.sleep(0.02)
            self.assertTrue(client.post(f"{where}/cancel", {}).body["cancel_requested"])
            self.assertEqual(self.curl("-H", "Prefer: wait=4", self.url(where))["status"], "cancelled")

    def test_a_program_ends_with_its_task(self) -> None:
        fifo = self.folder / "fifo"
        os.mkfifo(fifo)
        self.addCleanup(fifo.unlink)
        # The program waits for somebody who writes.
        body = {"name": "test", "kind": "checksum", "input": {"path": fifo.name}, "timeout": 0.5}
        task = self.post(body)
        self.assertEqual((task["status"], task["error"]["type"]), ("failed", "Timeout"))
        with self.assertRaises(OSError) as caught:
            os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
        self.assertEqual(caught.exception.errno, ENXIO, "The program still reads")

    def test_a_program_that_fails_fails_its_task(self) -> None:
        task = self.run_task("checksum", path="nowhere.txt")
        self.assertEqual((task["status"], task["error"]["type"]), ("failed", "CalledProcessError"))

    def test_a_file_is_written_once(self) -> None:
        path = self.folder / self.run_task("receipt", text="paid")["result"]
        self.assertEqual(path.read_text(), "paid")
        self.assertFalse(path.with_suffix(".part").exists())

    def test_its_tests_pass_and_leave_nothing_in_the_reactor(self) -> None:
        tests = [code for code in blocks(PAGE, "python") if code.startswith("# test_")]
        names = [named(0, code) for code in tests]
        self.assertEqual(names, ["test_words", "test_service"])
        for name, code in zip(names, tests, strict=True):
            (self.folder / f"{name}.py").write_text(code)
        command = [sys.executable, "-m", "twisted.trial", *names]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("PASSED (successes=4)", done.stdout)

    def test_the_service_file_starts_a_service(self) -> None:
        (code,) = (code for code in blocks(PAGE, "python") if code.startswith("# service.tac\n"))
        (self.folder / "service.tac").write_text(code.replace("8080", "0"))
        service = subprocess.Popen(
            [Path(sys.executable).parent / "twistd", "--pidfile=", "-n", "-y", "service.tac"],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert service.stdout is not None
        with service.stdout as log:
            self.assertTrue(any("Listening on http://127.0.0.1:" in line for line in log))
            service.terminate()
            log.read()
        self.assertEqual(service.wait(), -signal.SIGTERM)
