"""What the command takes."""

import io
import os
from contextlib import redirect_stdout
from typing import Any, Final

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

import twisted
from asynctask import __version__
from asynctask.guard import check_host
from asynctask.options import Options
from asynctask.seats import REACTOR, THREADS

DEFAULTS: Final[dict[str, Any]] = {
    "port": 8080,
    "listen": None,
    "hosts": [],
    "insecure": 0,
    "store": "sqlite:///asynctask.sqlite",
    "modules": [],
    "concurrency": 1_000_000,
    "threads": 32,
    "processes": 1,
    "spawned": len(os.sched_getaffinity(0)),
    "no-http": 0,
    "max-waiting": 10_000_000,
    "keep": 7,
    "grace": 10,
    "log-format": "text",
    "http": "fast",
    "access-log": 0,
    "lease": 15,
    "notify-store": None,
    "callbacks-to": [],
    "callback-secret": None,
    "show-callback-secret": 0,
}
"""The contract's options, and what they are when nobody says anything."""

FLAGS = [
    "--port",
    "--listen",
    "--host",
    "--insecure",
    "--store",
    "--concurrency",
    "--grace",
    "--log-format",
    "--tasks",
    "--max-waiting",
    "--keep",
    "--access-log",
    "--http",
    "--lease",
    "--notify-store",
    "--callbacks-to",
    "--callback-secret",
    "--show-callback-secret",
    "--processes",
    "--no-http",
]

RESERVED = ("tokens", "TOKENS")
"""Neither built nor told until it is decided."""


def options(*arguments: str, **variables: str) -> dict[str, Any]:
    """What the command understands of its arguments and variables."""
    found = Options({f"ASYNCTASK_{name}": value for name, value in variables.items()})
    found.parseOptions(list(arguments))
    return dict(found)


class OptionsTestCase(SynchronousTestCase):
    """Says what a refusal says."""

    def complaint(self, *arguments: str, **variables: str) -> str:
        with self.assertRaises(SystemExit) as caught:
            options(*arguments, **variables)
        told = caught.exception.code
        assert isinstance(told, str), told
        self.assertTrue(told.startswith("asynctask: "), told)
        self.assertEqual(told.splitlines(), [told])
        return told


GIVEN: Final = {
    "port": 0,
    "listen": "unix:/run/a.sock",
    "hosts": ["tasks.example", "other.example"],
    "insecure": 1,
    "store": "sqlite://",
    "modules": ["a", "b.c"],
    "concurrency": 3,
    "threads": 4,
    "spawned": 1,
    "processes": 4,
    "no-http": 1,
    "max-waiting": 9,
    "keep": 0.5,
    "grace": 2.5,
    "log-format": "json",
    "http": "twisted.web",
    "access-log": 1,
    "lease": 2,
    "notify-store": "postgresql:///x",
    "callbacks-to": ["10.0.0.0/8", "a.example"],
    "callback-secret": "s",
    "show-callback-secret": 1,
}
"""What is read where everything is given."""


class Arguments(OptionsTestCase):
    """What is given on the command line."""

    def test_nothing_has_to_be_given(self) -> None:
        self.assertEqual(options(), DEFAULTS)

    def test_every_option_is_read(self) -> None:
        self.assertEqual(
            options(
                *("--port", "0", "--listen", "unix:/run/a.sock", "--host", "tasks.example"),
                *("--host=Other.Example", "--insecure", "--store", "sqlite://", "--concurrency", "3"),
                *("--grace", "2.5", "--log-format", "json", "--tasks=a", "--tasks", "b.c", "--keep=0.5"),
                *("--concurrency=threads=4", "--concurrency", "processes=1", "--max-waiting=9"),
                "--http=twisted.web",
                *("--callbacks-to=10.0.0.0/8", "--callbacks-to", "a.example", "--callback-secret=s"),
                "--show-callback-secret",
                *("--lease=2", "--notify-store=postgresql:///x", "--processes=4"),
                *("--access-log", "--no-http"),
            ),
            GIVEN,
        )

    def test_a_port_has_a_short_name(self) -> None:
        self.assertEqual(options("-p", "9000")["port"], 9000)

    def test_a_number_may_be_at_its_ends(self) -> None:
        self.assertEqual(options("--port=65535")["port"], 65_535)
        self.assertEqual(options("--concurrency=0")["concurrency"], 0)
        self.assertEqual(options("--grace=0")["grace"], 0)

    def test_a_port_is_a_port(self) -> None:
        for wrong in ("65536", "-1", "http", "8080.0", "", "0x50"):
            self.assertIn("--port takes a whole number from 0 to 65535", self.complaint(f"--port={wrong}"))

    def test_concurrency_is_a_whole_number(self) -> None:
        for wrong, highest in (
            *(("-1", 10_000_000), ("many", 10_000_000), ("1.5", 10_000_000), ("10000001", 10_000_000)),
            *(("threads=x", 1_000), ("threads=1001", 1_000), ("processes=257", 256)),
        ):
            told = f"takes a whole number from 0 to {highest}, not '{wrong.rpartition('=')[2]}'"
            self.assertIn(told, self.complaint(f"--concurrency={wrong}"))
        for wrong in ("cores=4", "=4", "4="):
            told = f"--concurrency takes N, threads=N or processes=N, not '{wrong}'"
            self.assertIn(told, self.complaint(f"--concurrency={wrong}"))

    def test_processes_are_a_whole_number(self) -> None:
        for wrong in ("0", "257", "-1", "many", "2.0"):
            told = self.complaint(f"--processes={wrong}")
            self.assertIn("--processes takes a whole number from 1 to 256", told)

    def test_the_processes_share_the_cpus_for_handlers_in_processes(self) -> None:
        self.assertEqual(options("--processes=256")["spawned"], 1)
        self.assertEqual(options("--concurrency=processes=9", "--processes=3")["spawned"], 9)
        self.assertEqual(options("--concurrency=0", "--processes=2")["spawned"], 0)

    def test_one_that_neither_takes_tasks_nor_runs_any_is_refused(self) -> None:
        self.assertIn("would do nothing", self.complaint("--no-http", "--concurrency=0"))

    def test_grace_is_a_number(self) -> None:
        for wrong in ("-0.1", "nan", "inf", "86401", "long"):
            self.assertIn("--grace takes a number from 0 to 86400", self.complaint(f"--grace={wrong}"))

    def test_each_other_number_has_its_ends(self) -> None:
        for name, what, least, most in (
            ("lease", "number", 1, 3_600),
            ("keep", "number", 0, 36_500),
            ("max-waiting", "whole number", 0, 1_000_000_000),
        ):
            for right in (least, most):
                self.assertEqual(options(f"--{name}={right}")[name], right)
            for wrong in (least - 0.5, most + 1, "nan", "long"):
                told = f"--{name} takes a {what} from {least} to {most}, not '{wrong}'"
                self.assertIn(told, self.complaint(f"--{name}={wrong}"))

    def test_a_log_format_is_text_or_json(self) -> None:
        self.assertIn("--log-format is text or json, not 'xml'", self.complaint("--log-format=xml"))
        self.assertIn("--http is fast or twisted.web, not 'h2'", self.complaint("--http=h2"))

    def test_a_host_is_a_name_alone(self) -> None:
        for wrong in ("tasks.example:80", "http://tasks.example", "a/b", "", " ", "[::1]:80"):
            self.assertIn("--host", self.complaint(f"--host={wrong}"))

    def test_callbacks_go_to_addresses_networks_and_hosts(self) -> None:
        for right in ("127.0.0.1", "::1", "10.0.0.0/8", "fd00::/8", "localhost", "a_b.example."):
            self.assertEqual(options(f"--callbacks-to={right}")["callbacks-to"], [right])
        for wrong in ("", "a b", "http://a.example", "a.example:80", "10.0.0.1/8", "300.1.1.1"):
            told = self.complaint(f"--callbacks-to={wrong}")
            self.assertIn("takes an IP address, a network (CIDR) or a host name", told)
            self.assertIn(f"not '{wrong}'", told)

    def test_a_host_that_was_given_is_accepted_in_requests(self) -> None:
        for name in ("tasks.example", "TASKS.example", "192.0.2.7", "[fd00::1]"):
            hosts = options(f"--host={name}")["hosts"]
            self.assertIsNone(refusal(name, hosts), name)
            self.assertIsNone(refusal(f"{name}:8080", hosts), name)

    def test_an_unknown_option_is_named(self) -> None:
        self.assertIn("--ports", self.complaint("--ports=80"))
        self.assertIn("-x", self.complaint("-x"))

    def test_an_option_needs_its_value(self) -> None:
        self.assertIn("--store", self.complaint("--store"))

    def test_a_flag_takes_no_value(self) -> None:
        self.assertIn("--insecure", self.complaint("--insecure=1"))

    def test_there_is_nothing_but_options(self) -> None:
        self.complaint("start")
        self.assertIn("'b.example' is no option", self.complaint("--host", "a.example", "b.example"))

    def test_a_complaint_says_where_the_options_are_listed(self) -> None:
        self.assertIn("--help", self.complaint("--port=http"))

    @given(
        st.sampled_from(["--port", "--concurrency", "--grace", "--log-format", "--host", "--callbacks-to"]),
        st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), max_size=8),
    )
    def test_any_value_is_taken_or_complained_of_in_one_sentence(self, option: str, value: str) -> None:
        try:
            found = options(f"{option}={value}")
        except SystemExit:
            self.assertIn(option, self.complaint(f"{option}={value}"))
        else:
            self.assertEqual(found.keys(), DEFAULTS.keys())


def refusal(host: str, hosts: list[str]) -> Exception | None:
    """Why a request with this Host is refused, if it is."""
    try:
        check_host([host.encode()], b"HTTP/1.1", "203.0.113.9", hosts)
    except Exception as error:
        return error
    return None


class Variables(OptionsTestCase):
    """What is given by the environment."""

    def test_a_misspelt_variable_is_found_and_another_programs_is_not(self) -> None:
        given = {"ASYNCTASK_STOR": "x", "ASYNCTASK_MAXWAITING": "1", "ASYNCTASK_SERVICE_HOST": "h"}
        self.assertEqual(
            Options({**given, "ASYNCTASK_PORT": "1", "ASYNC": "2", "STORE": "y"}).misspelt(),
            {"ASYNCTASK_STOR": "ASYNCTASK_STORE", "ASYNCTASK_MAXWAITING": "ASYNCTASK_MAX_WAITING"},
        )

    def test_every_option_has_its_variable(self) -> None:
        self.assertEqual(
            options(
                PORT="0",
                LISTEN="unix:/run/a.sock",
                HOST="tasks.example, Other.Example",
                INSECURE="1",
                STORE="sqlite://",
                CONCURRENCY="3,threads=4, processes=1",
                TASKS="a,b.c",
                MAX_WAITING="9",
                KEEP="0.5",
                GRACE="2.5",
                LOG_FORMAT="json",
                HTTP="twisted.web",
                ACCESS_LOG="yes",
                LEASE="2",
                NOTIFY_STORE="postgresql:///x",
                CALLBACKS_TO="10.0.0.0/8, a.example",
                CALLBACK_SECRET="s",
                PROCESSES="4",
                NO_HTTP="1",
            ),
            GIVEN | {"show-callback-secret": 0},
        )

    def test_the_command_line_has_the_last_word(self) -> None:
        self.assertEqual(options("--port=9000", PORT="7000")["port"], 9000)
        self.assertEqual(options("--log-format=text", LOG_FORMAT="json")["log-format"], "text")

    def test_what_may_be_given_several_times_is_overridden_as_a_whole(self) -> None:
        variables = {"HOST": "a.example,b.example", "TASKS": "prod", "CALLBACKS_TO": "10.0.0.0/8"}
        variables["CONCURRENCY"] = "0,threads=8"
        found = options(**variables)
        self.assertEqual(found["hosts"], ["a.example", "b.example"])
        self.assertEqual((found["modules"], found["callbacks-to"]), (["prod"], ["10.0.0.0/8"]))
        given = ("--callbacks-to=192.0.2.1", "--tasks=mine", "--tasks=more")
        found = options(*given, **variables)
        self.assertEqual(found["hosts"], ["a.example", "b.example"])
        self.assertEqual((found["modules"], found["callbacks-to"]), (["mine", "more"], ["192.0.2.1"]))
        self.assertEqual((found["concurrency"], found["threads"]), (0, 0))
        found = options("--concurrency=processes=2", **variables)
        self.assertEqual((found["concurrency"], found["threads"], found["spawned"]), (REACTOR, THREADS, 2))

    def test_what_kubernetes_says_of_a_service_of_that_name_is_no_port(self) -> None:
        self.assertEqual(options(PORT="tcp://10.43.1.2:8080")["port"], 8080)

    def test_a_number_of_any_length_is_too_high(self) -> None:
        self.assertIn("from 0 to 10000000", self.complaint(f"--concurrency={'9' * 5_000}"))
        self.assertEqual(options(f"--concurrency=threads={'0' * 5_000}7")["threads"], 7)

    def test_the_end_of_a_line_is_no_part_of_a_variable(self) -> None:
        """As where a secret or a file of variables has one."""
        found = options(STORE="sqlite:///x\n", LOG_FORMAT="json\r", HOST=" a.example, ,b.example\n")
        self.assertEqual((found["store"], found["log-format"]), ("sqlite:///x", "json"))
        self.assertEqual(found["hosts"], ["a.example", "b.example"])

    def test_an_empty_variable_is_none(self) -> None:
        empty = {name.upper().replace("-", "_"): "" for name in DEFAULTS}
        self.assertEqual(options(**empty, HOST=""), DEFAULTS)

    def test_a_variable_of_others_is_not_looked_at(self) -> None:
        found = Options({"PORT": "1", "asynctask_port": "2", "ASYNCTASK_PORTS": "3"})
        found.parseOptions([])
        self.assertEqual(found["port"], 8080)

    def test_a_wrong_variable_is_complained_of_like_an_option(self) -> None:
        for complaint in (
            self.complaint(PORT="http"),
            self.complaint(CONCURRENCY="-1"),
            self.complaint(GRACE="long"),
            self.complaint(LOG_FORMAT="xml"),
            self.complaint(HOST="tasks.example,a/b"),
            self.complaint(CALLBACKS_TO="10.0.0.1,a/b"),
        ):
            self.assertIn("not '", complaint)

    def test_insecure_is_switched_on_and_off(self) -> None:
        for on in ("1", "true", "YES", "on"):
            self.assertEqual(options(INSECURE=on)["insecure"], 1)
        for off in ("0", "false", "No", "off", ""):
            self.assertEqual(options(INSECURE=off)["insecure"], 0)
        self.assertIn("ASYNCTASK_INSECURE is 1 or 0, not 'maybe'", self.complaint(INSECURE="maybe"))
        self.assertEqual(options(ACCESS_LOG="yes")["access-log"], 1)
        self.assertIn("ASYNCTASK_ACCESS_LOG", self.complaint(ACCESS_LOG="all"))


class Help(SynchronousTestCase):
    """What ``--help`` says."""

    def setUp(self) -> None:
        out = io.StringIO()
        with redirect_stdout(out), self.assertRaises(SystemExit) as caught:
            options("--help")
        self.assertFalse(caught.exception.code)
        self.text = out.getvalue()

    def test_the_version_is_ours_and_twisteds(self) -> None:
        out = io.StringIO()
        with redirect_stdout(out), self.assertRaises(SystemExit) as caught:
            options("--version")
        self.assertFalse(caught.exception.code)
        self.assertEqual(out.getvalue(), f"asynctask {__version__}, Twisted {twisted.__version__}\n")

    def test_it_names_every_option(self) -> None:
        for flag in FLAGS:
            self.assertIn(f" {flag}", self.text)

    def test_it_tells_the_defaults(self) -> None:
        for default in ("8080", "sqlite:///asynctask.sqlite", "10000000", "text", "10", "7"):
            self.assertIn(f"[default: {default}]", " ".join(self.text.split()))

    def test_it_tells_of_the_variables(self) -> None:
        self.assertIn("ASYNCTASK_PORT", self.text)

    def test_it_tells_of_nothing_that_is_not_there_yet(self) -> None:
        for reserved in RESERVED:
            self.assertNotIn(reserved, self.text)
