"""A guard against the network: whoever asks for a host other than this machine is refused and listed."""

import sys

EVENTS = {"socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.gethostbyname"}
attempts: list[str] = []  # a library may swallow the error


def is_local(host: object) -> bool:
    """Say whether a host is this machine; None is all of its addresses."""
    import socket  # late, for every process of the tests starts with this file

    if isinstance(host, bytes):
        host = host.decode()
    names = {None, "", "localhost", "::1", "0.0.0.0", "::", socket.gethostname()}
    return host in names or str(host).startswith("127.")


def refuse_network(event: str, arguments: tuple) -> None:
    """Refuse what leads to another machine; a hook for `sys.addaudithook`.

    Raises:
        ConnectionRefusedError: always, for another machine.
    """
    if event not in EVENTS:
        return
    host = arguments[1] if event in ("socket.connect", "socket.sendto", "socket.sendmsg") else arguments[0]
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        if not isinstance(host, tuple):  # a socket in the file system, or one that is connected
            return
        host = host[0]
    if not is_local(host):
        attempts.append(f"{event} {host}")
        raise ConnectionRefusedError(f"host must be this machine while the tests run, got {host!r}")


sys.addaudithook(refuse_network)
