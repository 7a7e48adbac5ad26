"""HTTPS: what a worker shows, and whom those trust that ask one.

Who is asked over HTTPS is verified, by name too. The one exception asks a worker on its own machine, at an address
which its certificate need not have: it trusts that certificate and no other.
"""

import re
import ssl
from contextlib import suppress
from pathlib import Path

from streams.errors import BadSettings
from streams.settings import Settings

ONE = re.compile(r"-----BEGIN ((?:X509 |TRUSTED )?CERTIFICATE)-----[\w+/=\s]*-----END \1-----", re.ASCII)


def check(settings: Settings) -> None:
    """Tell in time that the files cannot be used.

    Raises:
        BadSettings: naming the variables.
    """
    shown, _, ours = served(settings), trusted(settings), at_home(settings)
    if shown is not None and isinstance(ours, ssl.SSLContext):
        try:
            shake_hands(ours, shown)
        except ssl.SSLCertVerificationError as why:
            raise BadSettings(
                f"ACTIVESET_TLS_CERT must be a certificate that clients take, not {settings.tls_cert} "
                f"({why.verify_message})"
            ) from why


def shake_hands(client: ssl.SSLContext, server: ssl.SSLContext) -> None:
    """Let a client meet a server in memory.

    Raises:
        SSLCertVerificationError: the client does not take what the server shows.
    """
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (client.wrap_bio(to_client, to_server), server.wrap_bio(to_server, to_client, server_side=True))
    for end in 2 * ends:
        with suppress(ssl.SSLWantReadError):
            end.do_handshake()


def served(settings: Settings) -> ssl.SSLContext | None:
    """What the worker's web server shows; none if it speaks plain HTTP.

    Raises:
        BadSettings: the files are no certificate and its key.
    """
    if settings.tls_cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # The password is told, and wrong, because OpenSSL would ask for one at the terminal.
        context.load_cert_chain(settings.tls_cert, settings.tls_key, password="")
    except OSError as why:
        raise BadSettings(
            "ACTIVESET_TLS_CERT and ACTIVESET_TLS_KEY must be a certificate and its private key, as PEM and without a "
            f"password, not {settings.tls_cert} and {settings.tls_key} ({why})"
        ) from why
    return context


def trusted(settings: Settings) -> ssl.SSLContext | bool:
    """Whom a worker trusts that asks another: `tls_ca`; without it the system's CAs and its own certificate.

    Raises:
        BadSettings: there are no certificates in the file.
    """
    if settings.tls_ca is not None:
        return trusting(settings.tls_ca)
    if settings.tls_cert is None:
        return True  # the system's, to aiohttp
    context = trusting(settings.tls_cert, first=True)
    context.load_default_certs()
    return context


def at_home(settings: Settings) -> ssl.SSLContext | bool:
    """Whom one trusts that asks the worker at `Settings.url`: itself, whatever its name.

    Raises:
        BadSettings: there are no certificates in the file.
    """
    if settings.tls_cert is None:
        return True
    context = trusting(settings.tls_cert, first=True)
    context.check_hostname = False
    return context


def trusting(path: Path, *, first: bool = False) -> ssl.SSLContext:
    """Verifies by the certificates of a file, and by name.

    first: by the first one only, which a server shows for itself: those after it may have signed others, too.

    Raises:
        BadSettings: there are none in it.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # one that a CA has signed is trusted without that CA
    try:
        one = ONE.search(path.read_text("latin-1")) if first else None  # there may be words around it
        if one:
            context.load_verify_locations(cadata=one[0])
        else:
            context.load_verify_locations(path)
    except OSError as why:
        raise BadSettings(
            f"ACTIVESET_TLS_CA (or ACTIVESET_TLS_CERT) must be certificates as PEM, not {path} ({why})"
        ) from why
    return context
