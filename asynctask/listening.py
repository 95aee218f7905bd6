"""Where the service listens: looked at before the start, so that what is wrong is said in a sentence."""

import errno
import os
import socket
import stat
from contextlib import suppress
from typing import Any, Final

from msgspec import Struct
from OpenSSL import SSL, crypto
from twisted.internet import tcp, unix
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.endpoints import AdoptedStreamServerEndpoint, serverFromString
from twisted.internet.error import CannotListenError, VerifyError
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactor
from twisted.logger import Logger

from asynctask.guard import is_loopback
from asynctask.problems import StartError

log = Logger(namespace="asynctask")

INSECURE: Final = "{} can be reached from other machines, by everybody; if that is meant, add --insecure"

TAKEN: Final = "--listen: {} is taken; stop what listens there, or choose another"

LONGEST_PATH: Final = 107
"""Bytes of the path of a Unix socket (unix(7), ``sun_path``)."""

WAITING: Final = 4096
"""Clients that may wait to be accepted, what Linux allows unless it is told otherwise (``somaxconn``): with
Twisted's 50 a burst of connections is refused on a Unix socket, and a second late on a TCP port."""

UNSHARED: Final = "--processes needs a TCP port, which --listen {} is not"


class Shared(Struct, frozen=True):
    """What many processes listen on together.

    :ivar port: each opens this TCP port, and the kernel deals connections out (SO_REUSEPORT).
    :ivar descriptor: or each accepts from this open socket that it was handed, of this address family.
    """

    port: int = 0
    descriptor: int | None = None
    family: int = socket.AF_INET


def describe(port: int, listen: str | None) -> str:
    """The endpoint that the options ask for, as a string."""
    return f"tcp:{port}:interface=127.0.0.1" if listen is None else listen


def endpoint(reactor: Any, description: str, shared: Shared | None = None) -> IStreamServerEndpoint:
    """The endpoint that a string describes.

    :param shared: how this process listens on it together with others.
    :raises StartError: it describes none.
    """
    if shared is not None:
        if shared.descriptor is not None:
            return AdoptedStreamServerEndpoint(reactor, shared.descriptor, shared.family)
        reactor = _Reusing(reactor, shared.port)
    if "backlog=" not in description:
        reactor = _Queueing(reactor)
    try:
        found: IStreamServerEndpoint = serverFromString(reactor, description)
        if isinstance(found, AdoptedStreamServerEndpoint) and found.addressFamily == socket.AF_UNIX:
            found.reactor = _Adopting(reactor)
        return found
    except (SSL.Error, crypto.Error) as error:
        raise _unusable(description, error) from None
    except OSError as error:
        raise StartError(f"--listen {description} cannot be used ({error})") from None
    except VerifyError:
        raise StartError(f"--listen {description}: its certificate is of another key") from None
    except Exception as error:
        if description.startswith("systemd:") and isinstance(error, LookupError):
            told = "systemd has handed over no such socket (LISTEN_FDS, LISTEN_FDNAMES)"
            raise StartError(f"--listen {description}: {told}") from None
        raise StartError(f"--listen {description} is no Twisted endpoint ({error})") from None


def accept_all(port: IListeningPort) -> None:
    """Accept all who wait, before a port is closed: the system would reset their connections.

    Those of a socket that was handed over are to wait for who has it next.
    """
    if isinstance(port, tcp.Port):
        port.numberAccepts = WAITING
        port.doRead()


def check(description: str, *, insecure: bool, shared: bool = False) -> None:
    """Look whether it could be listened on now.

    Nothing is changed, but that the file of a Unix socket is removed on which nobody listens any more.

    :param shared: whether many processes are to listen on it.
    :raises StartError: it could not, or it may not.
    """
    recorder = MemoryReactor()
    asked = endpoint(recorder, description)
    if isinstance(asked, AdoptedStreamServerEndpoint):
        _check_adopted(description, asked)
        if shared and asked.addressFamily not in (socket.AF_INET, socket.AF_INET6):
            raise StartError(UNSHARED.format(description))
        return
    try:
        asked.listen(Factory())
    except Exception as error:
        why = str(error) or type(error).__name__
        raise StartError(f"--listen {description} cannot be used ({why})") from None
    _check_tls(description, recorder)
    ports = _tcp_ports(recorder)
    if shared and (len(ports) != 1 or recorder.unixServers):
        raise StartError(UNSHARED.format(description))
    for number, interface in ports:
        _check_tcp(number, interface, insecure=insecure)
    for path, *_ in recorder.unixServers:
        _check_unix(os.fspath(path))


def _check_adopted(description: str, asked: AdoptedStreamServerEndpoint) -> None:
    """Twisted reads addresses as the family says, and never asks the socket."""
    try:
        with socket.socket(fileno=os.dup(asked.fileno)) as adopted:
            family = adopted.family
    except OSError as error:
        raise StartError(f"--listen {description}: that is no socket ({error.strerror})") from None
    if family != asked.addressFamily:
        name = socket.AddressFamily(family).name.removeprefix("AF_")
        raise StartError(f"--listen {description}: that socket is of another domain; say domain={name}")


def _check_tls(description: str, recorder: MemoryReactor) -> None:
    """Twisted reads some files when the first client comes."""
    for _, _, tls, *_ in recorder.sslServers:
        try:
            tls.getContext()
        except (SSL.Error, OSError) as error:
            if "dhParameters=" not in description:
                raise _unusable(description, error) from None
            why = f"its key, certificate or dhParameters cannot be used ({_why(error)})"
            raise StartError(f"--listen {description}: {why}") from None


def _unusable(description: str, error: Exception) -> StartError:
    return StartError(
        f"--listen {description}: its key or its certificate cannot be used ({_why(error)}); "
        "certKey=… names the certificate, where that is not in the file of the key"
    )


def _why(error: Exception) -> str:
    """What OpenSSL says, or the system."""
    if isinstance(error, SSL.Error | crypto.Error):
        return ", ".join(reason for *_, reason in error.args[0] if reason)
    return str(error)


def _tcp_ports(recorder: MemoryReactor) -> list[tuple[int, str]]:
    """The ports that an endpoint has opened, and their interfaces."""
    plain = [(port, interface) for port, _, _, interface in recorder.tcpServers]
    return plain + [(port, interface) for port, _, _, _, interface in recorder.sslServers]


def _check_tcp(port: int, interface: str, *, insecure: bool) -> None:
    where = f"Port {port} on {interface or 'all interfaces'}"
    if not insecure and not is_loopback(interface):
        raise StartError(INSECURE.format(where))
    family = socket.AF_INET6 if ":" in interface else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((interface, port))
            probe.listen()
    except OverflowError:
        raise StartError(f"{where} does not exist; ports go up to 65535") from None
    except OSError as error:
        raise _cannot_listen(where, error) from None


def reserve(description: str) -> tuple[Shared, socket.socket | None]:
    """Take the TCP port that processes will listen on together, without listening on it; after `check`.

    :returns: what they need to know, and the socket that holds the port, which is to be kept.
    :raises StartError: it cannot be had.
    """
    recorder = MemoryReactor()
    asked = endpoint(recorder, description)
    if isinstance(asked, AdoptedStreamServerEndpoint):
        return Shared(descriptor=asked.fileno, family=asked.addressFamily), None
    asked.listen(Factory())
    [(port, interface)] = _tcp_ports(recorder)
    try:
        held = _bind(port, interface)
    except OSError as error:
        raise _cannot_listen(f"Port {port} on {interface or 'all interfaces'}", error) from None
    return Shared(held.getsockname()[1]), held


def _bind(port: int, interface: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in interface else socket.AF_INET
    bound = socket.socket(family)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind((interface, port))
        bound.setblocking(False)
    except BaseException:
        bound.close()
        raise
    return bound


class _Reusing:
    """A reactor whose TCP port is that of other processes too.

    :param port: opened instead of the one that an endpoint asks for.
    """

    def __init__(self, reactor: Any, port: int) -> None:
        self._reactor = reactor
        self._port = port

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def listenTCP(self, _port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        """See `twisted.internet.interfaces.IReactorTCP`."""
        try:
            with _bind(self._port, interface) as bound:
                bound.listen(backlog)
                return self._reactor.adoptStreamPort(bound.fileno(), bound.family, factory)
        except OSError as error:
            raise CannotListenError(interface, self._port, error) from None

    def listenSSL(
        self, port: int, factory: Any, contextFactory: Any, backlog: int = 50, interface: str = ""
    ) -> Any:
        """See `twisted.internet.interfaces.IReactorSSL`."""
        from twisted.protocols.tls import TLSMemoryBIOFactory

        encrypted = TLSMemoryBIOFactory(contextFactory, False, factory)
        return self.listenTCP(port, encrypted, backlog, interface)


class _Queueing:
    """A reactor on whose ports `WAITING` clients may wait, whatever an endpoint asks for."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def listenTCP(self, *given: Any, **named: Any) -> Any:
        """See `twisted.internet.interfaces.IReactorTCP`."""
        return self._reactor.listenTCP(*given, **named | {"backlog": WAITING})

    def listenSSL(self, *given: Any, **named: Any) -> Any:
        """See `twisted.internet.interfaces.IReactorSSL`."""
        return self._reactor.listenSSL(*given, **named | {"backlog": WAITING})

    def listenUNIX(self, *given: Any, **named: Any) -> Any:
        """See `twisted.internet.interfaces.IReactorUNIX`."""
        return self._reactor.listenUNIX(*given, **named | {"backlog": WAITING})


class _Adopting:
    """A reactor that takes over a Unix socket whose file stays that of whoever has made it."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def adoptStreamPort(self, fileno: int, _family: int, factory: Any) -> IListeningPort:
        """See `twisted.internet.interfaces.IReactorSocket`."""
        port: Any = unix.Port._fromListeningDescriptor(self._reactor, fileno, factory)
        # As one without a file, whose mode it would change now, and which it would remove at the end.
        port._bindPath = b"\0" + port._bindPath
        port.backlog = WAITING
        port._shouldShutdown = False  # nor would anybody listen on it then, as with a TCP socket
        port.startListening()
        found: IListeningPort = port
        return found


def _cannot_listen(where: str, error: OSError) -> StartError:
    if error.errno == errno.EADDRINUSE:
        return StartError(f"{where} is taken; stop what listens there, or choose another with --port")
    if error.errno == errno.EACCES:
        return StartError(f"{where} may not be used by this user; choose one above 1023 with --port")
    return StartError(f"{where} cannot be listened on ({error.strerror or error})")


def _check_unix(path: str) -> None:
    if not path:
        raise StartError("--listen: a Unix socket has a path")
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise StartError(f"--listen: cannot make a socket in the folder {folder}")
    if len(os.fsencode(path)) > LONGEST_PATH:
        raise StartError(f"--listen: the path of a socket has at most {LONGEST_PATH} bytes, not {path}")
    if not os.path.lexists(path):
        _take_away_own(f"{path}.lock")
        return
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise StartError(f"--listen: {path} is there, and is no socket")
    found = _connected(path)
    if found in (0, errno.EAGAIN):  # who listens may be held up
        raise StartError(TAKEN.format(path))
    if found == errno.ECONNREFUSED:
        # Of a process that was killed. Its lock may name any process by now, in a container above all.
        _take_away(path)
        _take_away(f"{path}.lock")
    # Whatever else it is, who listens finds out.


def _take_away(path: str) -> None:
    with suppress(OSError):
        os.unlink(path)


def _take_away_own(lock: str) -> None:
    """One that names this process is of an earlier one in a container; the others who listens finds out."""
    with suppress(OSError):
        if os.readlink(lock) == str(os.getpid()):
            os.unlink(lock)


def _connected(path: str) -> int:
    """What a connection to a Unix socket comes to: the number of an error, or 0."""
    with socket.socket(socket.AF_UNIX) as client:
        client.setblocking(False)
        return client.connect_ex(path)


def check_address(port: IListeningPort, *, insecure: bool) -> None:
    """Look at the address of a port that is open, of whatever endpoint.

    :raises StartError: it can be reached from other machines.
    """
    address = port.getHost()
    if isinstance(address, IPv4Address | IPv6Address) and not (insecure or is_loopback(address.host)):
        raise StartError(INSECURE.format(f"Port {address.port} on {address.host}"))


def url(port: IListeningPort, description: str) -> str:
    """Where clients find the service."""
    address = port.getHost()
    if not isinstance(address, IPv4Address | IPv6Address):
        name = address.name if isinstance(address, UNIXAddress) else None
        return f"unix:{os.fsdecode(name or b'')}"
    scheme = "https" if description.startswith(("ssl:", "tls:")) else "http"
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"{scheme}://{host}:{address.port}"


def announce(url: str | None) -> None:
    """Log where clients find the service; None is nowhere."""
    if url is None:
        log.info("Working without HTTP, on no port")
    else:
        log.info("Listening on {url}", url=url)
