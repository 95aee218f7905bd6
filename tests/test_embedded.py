"""Programs of one's own that the service is part of, in processes of their own."""

import socket

from tests import postgres
from tests.test_command import CommandTestCase

EMBEDDED = """
import gc, signal, sys
from twisted.application.service import MultiService
from twisted.internet import reactor
from twisted.internet.defer import inlineCallbacks, maybeDeferred
from twisted.internet.task import deferLater
from twisted.logger import globalLogPublisher
from asynctask.service import Options, makeService

globalLogPublisher.addObserver(lambda event: "log_failure" in event and print(event["log_failure"]))

def make(name, *given):
    options = Options({})
    options.parseOptions(["--port", "0", "--store", "sqlite:///one.sqlite", *given])
    service = makeService(options)
    service.setName(name)
    return service

@inlineCallbacks
def main():
    before = signal.getsignal(signal.SIGTERM), sys.getswitchinterval()
    both = MultiService()
    both.startService()
    first, second = make("first"), make("second")
    first.setServiceParent(both)
    try:
        second.setServiceParent(both)
    except Exception as error:
        print(type(error).__name__, error)
    yield deferLater(reactor, 0)
    print("second", second.running, second.port)
    try:
        first.startService()
    except Exception as error:
        print(type(error).__name__, error)
    yield deferLater(reactor, 0)
    print("first", first.running, first.port.connected)
    try:
        make("third", "--store", "sqlite://", "--tasks", "nowhere")
    except Exception as error:
        print(type(error).__name__, error)
    stops = [maybeDeferred(both.stopService), maybeDeferred(both.stopService)]
    print("stopping", [stop.called for stop in stops])
    for stop in stops:
        yield stop
    print("given back", (signal.getsignal(signal.SIGTERM), sys.getswitchinterval()) == before)
    gc.collect()  # which tells of failures that nobody has heard of
    reactor.stop()

reactor.callWhenRunning(lambda: main().addErrback(lambda failure: (print(failure), reactor.stop())))
reactor.run()
"""


TWO = """
import gc, os, signal, sys
from twisted.internet import reactor
from twisted.internet.defer import inlineCallbacks
from twisted.internet.task import deferLater
from asynctask.service import Options, makeService

def make(name):
    options = Options({})
    options.parseOptions(["--port", "0", "--store", f"sqlite:///{name}.sqlite"])
    service = makeService(options)
    service.privilegedStartService()
    service.startService()
    return service

@inlineCallbacks
def main():
    def state():
        taken = [signal.getsignal(one) is not signal.SIG_DFL for one in (signal.SIGHUP, signal.SIGUSR1)]
        return (sys.getswitchinterval(), gc.get_threshold(), taken)

    before = state()
    first = make("first")
    yield deferLater(reactor, 0)
    second = make("second")
    yield deferLater(reactor, 0)
    yield first.stopService()
    os.kill(os.getpid(), signal.SIGUSR1)
    yield deferLater(reactor, 0.1)
    goes_on = [now != then for now, then in zip(state(), before)] + [gc.get_freeze_count() > 0]
    print("one goes on", all(goes_on))
    yield second.stopService()
    print("given back", state() == before, gc.get_freeze_count() == 0)
    reactor.addSystemEventTrigger("before", "shutdown", deferLater, reactor, 0.3, print, "ended in time")
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGTERM)
        yield deferLater(reactor, 0.1)

reactor.callWhenRunning(lambda: main().addErrback(lambda failure: (print(failure), reactor.stop())))
reactor.run()
"""


EARLY = """
import gc, signal, sys, threading
from twisted.internet import reactor
from twisted.internet.task import deferLater
from asynctask.service import Options, makeService

def state():
    threads = sorted(each.name for each in threading.enumerate() if each.name.startswith("asynctask"))
    return threads, gc.get_threshold(), sys.getswitchinterval(), signal.getsignal(signal.SIGHUP)

before = state()
options = Options({})
options.parseOptions(["--port", "0", *sys.argv[1:]])
service = makeService(options)
service.privilegedStartService()
service.startService()
service.stopService()
deferLater(reactor, 0.5).addCallback(lambda _: print("as before", state() == before)).addBoth(
    lambda _: reactor.stop()
)
reactor.run()
"""


MANY = """
import socket, sys, threading, time
from twisted.internet import reactor
from twisted.internet.defer import inlineCallbacks
from twisted.internet.task import deferLater
from twisted.logger import globalLogPublisher
from asynctask.service import Options, makeService

told = []
globalLogPublisher.addObserver(lambda event: told.append(event.get("log_format")))
port, store = sys.argv[1:]

@inlineCallbacks
def main():
    options = Options({})
    options.parseOptions(["--port", port, "--processes", "2", "--grace", "0", "--store", store])
    service = makeService(options)
    service.privilegedStartService()
    service.startService()
    while "Listening on {url}" not in told:
        yield deferLater(reactor, 0.02)
    yield service.stopService()
    until = time.monotonic() + 5
    while any(each.name.startswith("asynctask") for each in threading.enumerate()):
        if time.monotonic() > until:
            print("a thread is left")
            break
        yield deferLater(reactor, 0.02)
    with socket.socket() as other:
        other.bind(("127.0.0.1", int(port)))
    print("ended, with timers:", reactor.getDelayedCalls())

reactor.callWhenRunning(
    lambda: main().addErrback(lambda failure: print(failure)).addBoth(lambda _: reactor.stop())
)
reactor.run()
"""


class EmbeddedTests(CommandTestCase):
    """In a program that goes on without it."""

    def test_one_that_ends_before_the_reactor_runs_takes_nothing(self) -> None:
        for options in (
            "--store sqlite://",
            f"--processes 2 --store {postgres.uri_of(postgres.template())}",
        ):
            ran = self.run_program(EARLY, *options.split())
            self.assertEqual((ran.stdout, ran.stderr), ("as before True\n", ""))

    def test_many_processes_leave_neither_a_thread_nor_their_port(self) -> None:
        database = postgres.new_database()
        self.addCleanup(postgres.drop, database)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        ran = self.run_program(MANY, str(port), postgres.uri_of(database))
        self.assertEqual((ran.stdout, ran.stderr), ("ended, with timers: []\n", ""))

    def test_two_that_stop_in_the_order_of_their_starts_give_back_what_they_took(self) -> None:
        ran = self.run_program(TWO)
        told = ["one goes on True", "given back True True", "ended in time"]
        self.assertEqual((ran.stdout.splitlines(), ran.returncode), (told, 0))

    def test_a_start_fails_and_leaves_nothing_and_a_stop_gives_back_what_it_took(self) -> None:
        ran = self.run_program(EMBEDDED)
        refused, *told = ran.stdout.splitlines()
        self.assertRegex(refused, "StartError --store .*one.sqlite is in use by another")
        self.assertEqual(
            told,
            [
                "second 0 None",
                "StartError This service was started before; make a new one to start again",
                "first 1 True",
                "StartError --tasks nowhere cannot be imported: ModuleNotFoundError: "
                "No module named 'nowhere'",
                "stopping [False, False]",
                "given back True",
            ],
        )
        self.assertEqual(ran.stderr, "")
