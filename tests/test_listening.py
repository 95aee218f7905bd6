"""Where the service listens."""

import os
import shutil
import socket
import tempfile
from pathlib import Path
from typing import Final

from twisted.internet import unix
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.endpoints import AdoptedStreamServerEndpoint
from twisted.internet.interfaces import IAddress, IListeningPort, IStreamServerEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.ssl import KeyPair
from twisted.internet.testing import MemoryReactor
from twisted.trial.unittest import SkipTest, SynchronousTestCase
from zope.interface import implementer

from asynctask import guard, listening
from asynctask.listening import LONGEST_PATH, Shared
from asynctask.problems import StartError
from tests.test_sqlitefile import nobody

UNPRIVILEGED: Final = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")

LOOPBACK: Final = IPv4Address("TCP", "127.0.0.1", 8080)
EVERYWHERE: Final = IPv4Address("TCP", "0.0.0.0", 80)
LOOPBACK_6: Final = IPv6Address("TCP", "::1", 8080)
EVERYWHERE_6: Final = IPv6Address("TCP", "::", 80)
SOCKET: Final = UNIXAddress("/run/a.sock")


def pem_file(test: SynchronousTestCase, size: int = 2048) -> Path:
    """A certificate and its key, both new."""
    pem = Path(tempfile.mkdtemp()) / "key.pem"
    test.addCleanup(shutil.rmtree, pem.parent)
    pem.write_bytes(KeyPair.generate(size=size).selfSignedCert(1, CN=b"localhost").dumpPEM())
    return pem


@implementer(IListeningPort)
class OpenPort:
    """A port that somebody has opened."""

    def __init__(self, address: IAddress) -> None:
        self._address = address

    def getHost(self) -> IAddress:
        """See `IListeningPort`."""
        return self._address

    def startListening(self) -> None:
        """See `IListeningPort`."""

    def stopListening(self) -> None:
        """See `IListeningPort`."""


class ListeningTestCase(SynchronousTestCase):
    """Says why something cannot be listened on."""

    def complaint(self, description: str, *, insecure: bool = False) -> str:
        with self.assertRaises(StartError) as caught:
            listening.check(description, insecure=insecure)
        told = str(caught.exception)
        self.assertEqual(told.splitlines(), [told])
        return told

    def taken(self) -> int:
        """A port of 127.0.0.1 that somebody listens on."""
        taken = socket.socket()
        self.addCleanup(taken.close)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number: int = taken.getsockname()[1]
        return number


class TheEndpoint(SynchronousTestCase):
    """What the options ask for."""

    def test_a_port_is_one_of_this_machine_alone(self) -> None:
        self.assertEqual(listening.describe(8080, None), "tcp:8080:interface=127.0.0.1")

    def test_an_endpoint_stands_instead_of_the_port(self) -> None:
        for given in ("unix:/run/a.sock", ""):  # the latter is refused later
            self.assertEqual(listening.describe(8080, given), given)

    def test_each_twisted_endpoint_is_one(self) -> None:
        for description in ("tcp:80", "unix:/run/a.sock", "tcp6:80", "haproxy:tcp:80"):
            found = listening.endpoint(MemoryReactor(), description)
            self.assertTrue(IStreamServerEndpoint.providedBy(found), description)

    def test_a_burst_of_clients_can_wait_unless_an_endpoint_says_otherwise(self) -> None:
        for description, waiting in (
            ("tcp:80", 4_096),
            ("tcp6:80", 4_096),
            ("tcp:80:backlog=50", 50),
            ("unix:/run/a.sock", 4_096),
            (f"ssl:443:privateKey={pem_file(self)}", 4_096),
        ):
            reactor = MemoryReactor()
            listening.endpoint(reactor, description).listen(Factory())
            [(_, _, *opened)] = reactor.tcpServers + reactor.unixServers + reactor.sslServers
            self.assertIn(waiting, opened, description)

    def test_what_is_no_endpoint_is_said_to_be_none(self) -> None:
        for description in (
            "",
            "nonsense",
            "tcp:",
            "tcp:abc",
            "tcp:80:what=1",
        ):
            with self.assertRaises(StartError) as caught:
                listening.endpoint(MemoryReactor(), description)
            self.assertIn(f"--listen {description} is no Twisted endpoint", str(caught.exception))

    def test_a_key_or_a_certificate_that_cannot_be_used_is_told(self) -> None:
        with self.assertRaisesRegex(StartError, r"--listen ssl:\S+ cannot be used \(.*'/none.pem'\)"):
            listening.endpoint(MemoryReactor(), "ssl:0:privateKey=/none.pem")
        path = Path(self.mktemp())
        path.touch()
        with self.assertRaisesRegex(StartError, r"certificate cannot be used \(.+\); certKey="):
            listening.endpoint(MemoryReactor(), f"ssl:0:privateKey={path}")

    def test_a_socket_that_systemd_has_not_handed_over_is_told(self) -> None:
        for which in ("index=7", "name=none"):
            with self.assertRaisesRegex(StartError, r"no such socket \(LISTEN_FDS, LISTEN_FDNAMES\)$"):
                listening.endpoint(MemoryReactor(), f"systemd:domain=INET:{which}")

    def test_a_certificate_of_another_key_is_told(self) -> None:
        key, other = pem_file(self), pem_file(self)
        other.write_bytes(other.read_bytes().partition(b"-----BEGIN PRIVATE KEY-----")[0])
        with self.assertRaisesRegex(StartError, r"^--listen ssl:\S+: its certificate is of another key$"):
            listening.endpoint(MemoryReactor(), f"ssl:0:privateKey={key}:certKey={other}")


class BeforeTheStart(ListeningTestCase):
    """What is wrong is said before anything is done."""

    def test_what_twisted_would_read_for_the_first_client_is_read_now(self) -> None:
        pem = pem_file(self)
        described = f"ssl:0:interface=127.0.0.1:privateKey={pem}:dhParameters="
        no_parameters = (
            r"^--listen ssl:\S+: its key, certificate or dhParameters cannot be used \((no \S.*)\)$"
        )
        for file in (pem, pem.with_name("none.pem")):
            with self.assertRaisesRegex(StartError, no_parameters):
                listening.check(f"{described}{file}", insecure=False)

    def test_a_key_that_openssl_does_not_take_is_told(self) -> None:
        described = f"ssl:0:interface=127.0.0.1:privateKey={pem_file(self, 1024)}"
        with self.assertRaisesRegex(StartError, "its key or its certificate cannot be used"):
            listening.check(described, insecure=False)

    def test_a_free_port_is_left_free(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            number = free.getsockname()[1]
        listening.check(f"tcp:{number}:interface=127.0.0.1", insecure=False)
        with socket.socket() as again:
            again.bind(("127.0.0.1", number))
            self.assertEqual(again.getsockname()[1], number)

    def test_a_taken_port_is_named(self) -> None:
        number = self.taken()
        complaint = self.complaint(f"tcp:{number}:interface=127.0.0.1")
        self.assertIn(f"Port {number} on 127.0.0.1 is taken", complaint)
        self.assertIn("--port", complaint)

    def test_a_port_that_only_root_may_take_is_named(self) -> None:
        if int(UNPRIVILEGED.read_text()) <= 80:
            raise SkipTest("Everybody may take port 80 here")
        with nobody():
            complaint = self.complaint("tcp:80:interface=127.0.0.1")
        self.assertIn("Port 80 on 127.0.0.1 may not be used by this user", complaint)

    def test_a_port_that_was_just_left_can_be_taken_again(self) -> None:
        with socket.socket() as server, socket.socket() as client:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(("127.0.0.1", 0))
            server.listen()
            number = server.getsockname()[1]
            client.connect(("127.0.0.1", number))
            server.accept()[0].close()
        listening.check(f"tcp:{number}:interface=127.0.0.1", insecure=False)

    def test_an_address_of_another_machine_cannot_be_listened_on(self) -> None:
        complaint = self.complaint("tcp:0:interface=192.0.2.7", insecure=True)
        self.assertIn("Port 0 on 192.0.2.7 cannot be listened on", complaint)

    def test_a_port_beyond_the_last_one_is_complained_of(self) -> None:
        told = self.complaint("tcp:70000:interface=127.0.0.1")
        self.assertEqual(told, "Port 70000 on 127.0.0.1 does not exist; ports go up to 65535")

    def test_what_is_no_endpoint_is_complained_of(self) -> None:
        self.assertIn("no Twisted endpoint", self.complaint("nonsense"))

    def test_what_twisted_cannot_listen_on_is_complained_of(self) -> None:
        self.assertIn("cannot be used", self.complaint("stdio:"))


class Loopback(ListeningTestCase):
    """Beyond this machine only with --insecure."""

    def test_this_machine_may_listen_to_itself(self) -> None:
        for interface in ("127.0.0.1", "127.0.0.2", "localhost"):
            listening.check(f"tcp:0:interface={interface}", insecure=False)

    def test_this_machine_may_listen_to_itself_over_ipv6(self) -> None:
        with socket.socket(socket.AF_INET6) as taken:
            try:
                taken.bind(("::1", 0))
            except OSError:
                raise SkipTest("No IPv6 here") from None
            taken.listen()
            number = taken.getsockname()[1]
            self.assertIn("is taken", self.complaint(f"tcp6:{number}:interface=\\:\\:1"))
        listening.check(f"tcp6:{number}:interface=\\:\\:1", insecure=False)

    def test_other_machines_are_let_in_only_on_purpose(self) -> None:
        for description in ("tcp:0", "tcp:0:interface=0.0.0.0", "haproxy:tcp:0", "tcp6:0"):
            self.assertIn("--insecure", self.complaint(description))

    def test_insecure_lets_them_in(self) -> None:
        listening.check("tcp:0", insecure=True)
        listening.check("tcp:0:interface=0.0.0.0", insecure=True)

    def test_which_addresses_are_this_machine(self) -> None:
        for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost"):
            self.assertTrue(guard.is_loopback(host), host)
        for host in ("", "0.0.0.0", "::", "192.0.2.7", "fe80::1%eth0", "tasks.example", "128.0.0.1"):
            self.assertFalse(guard.is_loopback(host), host)

    def test_a_port_that_is_open_is_looked_at_again(self) -> None:
        for address in (EVERYWHERE, EVERYWHERE_6):
            with self.assertRaises(StartError) as caught:
                listening.check_address(OpenPort(address), insecure=False)
            self.assertIn(f"Port 80 on {address.host}", str(caught.exception))
            self.assertIn("--insecure", str(caught.exception))

    def test_an_open_port_of_this_machine_is_fine(self) -> None:
        for address in (LOOPBACK, LOOPBACK_6, SOCKET):
            listening.check_address(OpenPort(address), insecure=False)

    def test_an_open_port_of_all_machines_is_fine_on_purpose(self) -> None:
        listening.check_address(OpenPort(EVERYWHERE), insecure=True)


class UnixSockets(ListeningTestCase):
    """A socket in the file system."""

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)

    def test_a_socket_can_be_made_in_a_folder(self) -> None:
        listening.check(f"unix:{self.folder}/a.sock", insecure=False)
        self.assertEqual(os.listdir(self.folder), [])

    def test_a_folder_that_is_missing_is_named(self) -> None:
        self.assertIn(f"{self.folder}/none", self.complaint(f"unix:{self.folder}/none/a.sock"))

    def test_what_is_there_and_is_no_socket_is_left_alone(self) -> None:
        path = self.folder / "notes"
        path.write_text("mine")
        self.assertIn(f"{path} is there, and is no socket", self.complaint(f"unix:{path}"))
        self.assertEqual(path.read_text(), "mine")

    def test_what_a_killed_process_left_is_taken_away_whomever_its_lock_names(self) -> None:
        left = self.folder / "a.sock"
        with socket.socket(socket.AF_UNIX) as before:
            before.bind(str(left))
        os.symlink(str(os.getpid()), f"{left}.lock")
        listening.check(f"unix:{left}", insecure=False)
        self.assertEqual(os.listdir(self.folder), [])

    def test_so_is_a_lock_whose_socket_is_gone(self) -> None:
        """As where a container is started again: another process than this one has made it."""
        path = self.folder / "a.sock"
        os.symlink(str(os.getpid()), f"{path}.lock")
        listening.check(f"unix:{path}", insecure=False)
        self.assertEqual(os.listdir(self.folder), [])

    def test_the_lock_of_another_process_stays_and_so_does_what_is_none(self) -> None:
        path = self.folder / "a.sock"
        lock = self.folder / "a.sock.lock"
        for make in (lambda: lock.symlink_to(str(os.getppid())), lock.touch, lock.mkdir):
            make()
            listening.check(f"unix:{path}", insecure=False)
            self.assertEqual(os.listdir(self.folder), ["a.sock.lock"])
            lock.rmdir() if lock.is_dir() else lock.unlink()

    def test_a_socket_without_a_path_is_refused(self) -> None:
        self.assertEqual(self.complaint("unix:"), "--listen: a Unix socket has a path")

    def test_one_that_somebody_listens_on_is_taken(self) -> None:
        path = self.folder / "a.sock"
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(path))
            other.listen()
            self.assertIn(f"{path} is taken", self.complaint(f"unix:{path}"))
        self.assertTrue(path.exists())

    def test_so_is_one_whose_listener_is_held_up(self) -> None:
        path = self.folder / "a.sock"
        with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as waiting:
            other.bind(str(path))
            other.listen(0)
            waiting.connect(str(path))
            self.assertIn(f"{path} is taken", self.complaint(f"unix:{path}"))

    def test_a_path_has_so_many_bytes(self) -> None:
        longest = f"{self.folder}/{'a' * (LONGEST_PATH - len(str(self.folder)) - 1)}"
        listening.check(f"unix:{longest}", insecure=False)
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(longest)
        self.assertIn("at most 107 bytes", self.complaint(f"unix:{longest}a"))


class Dealing:
    """A reactor that keeps the sockets which it is to accept from."""

    def __init__(self) -> None:
        self.adopted: list[socket.socket] = []

    def adoptStreamPort(self, descriptor: int, family: int, factory: Factory) -> socket.socket:
        self.adopted.append(socket.socket(family, fileno=os.dup(descriptor)))
        return self.adopted[-1]


class HandedOver(SynchronousTestCase):
    """A Unix socket of systemd's."""

    def test_as_many_clients_can_wait_as_on_others(self) -> None:
        waiting: list[int] = []
        self.patch(unix.Port, "startListening", lambda port: waiting.append(port.backlog))
        with socket.socket(socket.AF_UNIX) as given:
            given.bind("\0asynctask handed over " + str(os.getpid()))
            adopting = listening._Adopting(MemoryReactor())
            adopting.adoptStreamPort(given.fileno(), socket.AF_UNIX, Factory())
        self.assertEqual(waiting, [listening.WAITING])


class Together(ListeningTestCase):
    """Many processes on one port."""

    def listen(self, description: str, shared: Shared) -> socket.socket:
        dealing = Dealing()
        listening.endpoint(dealing, description, shared).listen(Factory())
        [found] = dealing.adopted
        self.addCleanup(found.close)
        return found

    def reserve(self, description: str) -> Shared:
        shared, held = listening.reserve(description)
        if held is not None:
            self.addCleanup(held.close)
        return shared

    def test_each_gets_some_of_the_connections_and_nobody_else_any(self) -> None:
        description = "tcp:0:interface=127.0.0.1"
        shared = self.reserve(description)
        self.assertRaises(OSError, socket.create_connection, ("127.0.0.1", shared.port))
        ports = [self.listen(description, shared) for _ in range(2)]
        for _ in range(64):
            with socket.create_connection(("127.0.0.1", shared.port)):
                pass
        for port in ports:  # else this raises, since there is none
            port.accept()[0].close()
        ports[0].close()
        socket.create_connection(("127.0.0.1", shared.port)).close()

    def test_the_port_that_was_asked_for_is_the_one(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            number = free.getsockname()[1]
        self.assertEqual(self.reserve(f"tcp:{number}:interface=127.0.0.1"), Shared(number))

    def test_others_see_that_it_is_taken(self) -> None:
        description = "tcp:0:interface=127.0.0.1"
        shared = self.reserve(description)
        self.listen(description, shared)
        self.assertIn("is taken", self.complaint(f"tcp:{shared.port}:interface=127.0.0.1"))

    def test_a_port_that_was_taken_meanwhile_is_named(self) -> None:
        number = self.taken()
        with self.assertRaises(StartError) as caught:
            listening.reserve(f"tcp:{number}:interface=127.0.0.1")
        self.assertIn(f"Port {number} on 127.0.0.1 is taken", str(caught.exception))

    def test_tls_can_be_shared(self) -> None:
        description = f"ssl:0:interface=127.0.0.1:privateKey={pem_file(self)}"
        shared = self.reserve(description)
        for _ in range(2):
            self.assertEqual(self.listen(description, shared).getsockname()[1], shared.port)

    def test_a_socket_that_was_handed_over_is_handed_on(self) -> None:
        given = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(given.close)
        dealing = Dealing()
        handed = Shared(descriptor=os.dup(given.fileno()))
        listening.endpoint(dealing, "systemd:domain=INET:index=0", handed).listen(Factory())
        [port] = dealing.adopted
        self.addCleanup(port.close)
        self.assertEqual(port.getsockname(), given.getsockname())

    def test_its_domain_is_the_one_that_is_said(self) -> None:
        given = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(given.close)
        for family in (socket.AF_INET, socket.AF_INET6):
            adopted = AdoptedStreamServerEndpoint(MemoryReactor(), given.fileno(), family)
            self.patch(listening, "endpoint", lambda *_, found=adopted: found)
            if family == given.family:
                listening.check("systemd:domain=INET:index=0", insecure=False)
            else:
                self.assertIn("say domain=INET", self.complaint("systemd:domain=INET6:index=0"))

    def test_what_has_no_tcp_port_cannot_be_shared(self) -> None:
        for description in ("unix:/tmp/a.sock", "stdio:"):
            with self.assertRaises(StartError):
                listening.check(description, insecure=False, shared=True)
        listening.check("tcp:0:interface=127.0.0.1", insecure=False, shared=True)


class Urls(SynchronousTestCase):
    """Where clients find the service."""

    def test_a_port_has_its_real_number(self) -> None:
        self.assertEqual(
            listening.url(OpenPort(LOOPBACK), "tcp:0:interface=127.0.0.1"), "http://127.0.0.1:8080"
        )

    def test_an_ipv6_address_has_its_brackets(self) -> None:
        self.assertEqual(listening.url(OpenPort(LOOPBACK_6), "tcp6:0"), "http://[::1]:8080")

    def test_tls_is_https(self) -> None:
        self.assertEqual(listening.url(OpenPort(LOOPBACK), "ssl:8080"), "https://127.0.0.1:8080")

    def test_a_unix_socket_is_a_path(self) -> None:
        self.assertEqual(listening.url(OpenPort(SOCKET), "unix:/run/a.sock"), "unix:/run/a.sock")

    def test_a_unix_socket_without_a_name_is_told_all_the_same(self) -> None:
        self.assertEqual(listening.url(OpenPort(UNIXAddress(None)), "unix:"), "unix:")
