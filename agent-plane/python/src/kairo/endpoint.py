"""Where the kernel's socket is: given, or from the environment.

In this order: ``KAIRO_IPC_FD`` (a connected descriptor that the parent left for us),
``KAIRO_IPC_SOCKET`` (a path, or ``tcp:127.0.0.1:PORT``), ``KAIRO_RUN_DIR/kernel.sock``,
``/run/kairo/kernel.sock``. TCP is for the port that QEMU forwards, so only loopback addresses are
accepted.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from dataclasses import dataclass
from typing import Mapping, Optional, Tuple, Union

from .errors import CannotConnect, EndpointError

RUN_DIR = "/run/kairo"
SOCKET_NAME = "kernel.sock"

# The inherited descriptor can be taken once in a process: it is one connection.
_taken = False


@dataclass(frozen=True)
class Endpoint:
    """A way to reach the kernel: exactly one of the three is set."""

    path: Optional[str] = None
    tcp: Optional[Tuple[str, int]] = None
    descriptor: Optional[int] = None

    def __str__(self) -> str:
        if self.descriptor is not None:
            return f"inherited descriptor {self.descriptor}"
        if self.tcp is not None:
            host, port = self.tcp
            return f"tcp:[{host}]:{port}" if ":" in host else f"tcp:{host}:{port}"
        return str(self.path)

    @property
    def can_reconnect(self) -> bool:
        """Whether a second connection can be made: an inherited one is all there is."""
        return self.descriptor is None


def parse(text: str) -> Endpoint:
    """A path, or ``tcp:`` with a loopback address and port. Raises :class:`kairo.EndpointError`."""
    if not text.startswith("tcp:"):
        return Endpoint(path=text)
    wrong = EndpointError(f"{text!r} is not a loopback address: expected tcp:127.0.0.1:PORT")
    host, _, port = text[len("tcp:"):].rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise wrong from None
    if not address.is_loopback or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise wrong
    return Endpoint(tcp=(host, int(port)))


def from_environment(variables: Optional[Mapping[str, str]] = None) -> Endpoint:
    """The endpoint that the environment names. Raises :class:`kairo.EndpointError`."""
    variables = os.environ if variables is None else variables
    descriptor = variables.get("KAIRO_IPC_FD")
    if descriptor:
        if descriptor.isascii() and descriptor.isdigit() and int(descriptor) > 2:
            return Endpoint(descriptor=int(descriptor))
        raise EndpointError(
            f"KAIRO_IPC_FD is {descriptor!r}, expected the number of an inherited descriptor "
            "above 2"
        )
    named = variables.get("KAIRO_IPC_SOCKET")
    if named:
        return parse(named)
    directory = variables.get("KAIRO_RUN_DIR") or RUN_DIR
    return Endpoint(path=os.path.join(directory, SOCKET_NAME))


def resolve(given: Union[None, str, "os.PathLike[str]", Endpoint]) -> Endpoint:
    """What a client was given, or else what the environment names."""
    if given is None:
        return from_environment()
    if isinstance(given, Endpoint):
        return given
    return parse(os.fspath(given))


def connect(endpoint: Endpoint, timeout_s: float) -> socket.socket:
    """A connected socket, not inheritable. Raises :class:`kairo.CannotConnect`."""
    try:
        if endpoint.descriptor is not None:
            return _adopt(endpoint.descriptor)
        if endpoint.tcp is not None:
            stream = socket.create_connection(endpoint.tcp, timeout_s)
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return stream
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            stream.settimeout(timeout_s)
            stream.connect(str(endpoint.path))
        except BaseException:
            stream.close()
            raise
        return stream
    except OSError as error:
        raise CannotConnect(f"cannot reach the kernel at {endpoint}: {error}") from error


def _adopt(descriptor: int) -> socket.socket:
    """Takes over the connected socket that the parent left, once."""
    global _taken
    if _taken:
        raise OSError("KAIRO_IPC_FD was already taken by this process")
    # The copy is not inheritable, and the inherited one closes here: the connection is an
    # identity, and must not leak into programs that we start.
    copy = os.dup(descriptor)
    try:
        stream = socket.socket(fileno=copy)
    except BaseException:
        os.close(copy)
        raise
    try:
        stream.getpeername()
    except BaseException:
        stream.close()
        raise
    os.close(descriptor)
    _taken = True
    return stream
