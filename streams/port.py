"""Whether a server can listen where it should, asked before it starts."""

import socket


def try_to_listen(host: str, port: int) -> None:
    """Take every address of the host for a moment.

    Raises:
        OSError: one cannot be had; its errno tells a port that is taken from a host that is not ours.
    """
    for family, kind, protocol, _, address in socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    ):
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
