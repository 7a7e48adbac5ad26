"""HTTPS: what a worker shows, and whom those trust that ask one.

Who is asked over HTTPS is verified, by name too. The one exception asks a worker on its own machine, at an address
which its certificate need not have: it trusts that certificate and no other.
"""

import ssl
from pathlib import Path

from streams.errors import BadSettings
from streams.settings import Settings


def check(settings: Settings) -> None:
    """Tell in time that the files cannot be used.

    Raises:
        BadSettings: naming the variables.
    """
    for needs in (served, trusted, at_home):
        needs(settings)


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
    path = settings.tls_ca or settings.tls_cert
    if path is None:
        return True  # the system's, to aiohttp
    context = trusting(path)
    if settings.tls_ca is None:
        context.load_default_certs()
    return context


def at_home(settings: Settings) -> ssl.SSLContext | bool:
    """Whom one trusts that asks the worker at `Settings.url`: itself, whatever its name.

    Raises:
        BadSettings: there are no certificates in the file.
    """
    if settings.tls_cert is None:
        return True
    context = trusting(settings.tls_cert)
    context.check_hostname = False
    return context


def trusting(path: Path) -> ssl.SSLContext:
    """Verifies by the certificates of a file, and by name.

    Raises:
        BadSettings: there are none in it.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # one that a CA has signed is trusted without that CA
    try:
        context.load_verify_locations(path)
    except OSError as why:
        raise BadSettings(
            f"ACTIVESET_TLS_CA (or ACTIVESET_TLS_CERT) must be certificates as PEM, not {path} ({why})"
        ) from why
    return context
