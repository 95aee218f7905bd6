"""Where the service listens: looked at before the start, so that what is wrong is said in a sentence."""

import errno
import ipaddress
import os
import socket
from typing import Any, Final

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.endpoints import AdoptedStreamServerEndpoint, serverFromString
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactor

from asynctask.sqlite import StartError

INSECURE: Final = "{} can be reached from other machines, by everybody; if that is meant, add --insecure"


def describe(port: int, listen: str | None) -> str:
    """The endpoint that the options ask for, as a string."""
    return listen or f"tcp:{port}:interface=127.0.0.1"


def endpoint(reactor: Any, description: str) -> IStreamServerEndpoint:
    """The endpoint that a string describes.

    :raises StartError: it describes none.
    """
    try:
        found: IStreamServerEndpoint = serverFromString(reactor, description)
        return found
    except Exception as error:
        raise StartError(f"--listen {description} is no Twisted endpoint ({error})") from None


def check(description: str, *, insecure: bool) -> None:
    """Look whether it could be listened on now, and leave everything as it is.

    :raises StartError: it could not, or it may not.
    """
    recorder = MemoryReactor()
    asked = endpoint(recorder, description)
    if isinstance(asked, AdoptedStreamServerEndpoint):
        return
    try:
        asked.listen(Factory())
    except Exception as error:
        raise StartError(f"--listen {description} cannot be used ({error})") from None
    for number, *_, interface in [(port, interface) for port, _, _, interface in recorder.tcpServers] + [
        (port, interface) for port, _, _, _, interface in recorder.sslServers
    ]:
        _check_tcp(number, interface, insecure=insecure)
    for path, *_ in recorder.unixServers:
        _check_unix(os.fspath(path))


def _check_tcp(port: int, interface: str, *, insecure: bool) -> None:
    where = f"Port {port} on {interface or 'all interfaces'}"
    if not insecure and not is_loopback(interface):
        raise StartError(INSECURE.format(where))
    family = socket.AF_INET6 if ":" in interface else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((interface, port))
            probe.listen()
        except OverflowError:
            raise StartError(f"{where} does not exist; ports go up to 65535") from None
        except OSError as error:
            raise _cannot_listen(where, error) from None


def _cannot_listen(where: str, error: OSError) -> StartError:
    if error.errno == errno.EADDRINUSE:
        return StartError(f"{where} is taken; stop what listens there, or choose another with --port")
    if error.errno == errno.EACCES:
        return StartError(f"{where} may not be used by this user; choose one above 1023 with --port")
    return StartError(f"{where} cannot be listened on ({error.strerror or error})")


def _check_unix(path: str) -> None:
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise StartError(f"--listen: cannot make a socket in the folder {folder}")


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine only."""
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host == "localhost"


def check_address(port: IListeningPort, *, insecure: bool) -> None:
    """The same for a port that is open, of whatever endpoint: the last word.

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
