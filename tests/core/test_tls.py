import ssl
import subprocess
from pathlib import Path

import pytest

from streams.errors import BadSettings
from streams.settings import Settings
from streams.tls import at_home, check, served, shake_hands, trusted
from tests.conftest import Certificate, signed


def test_without_a_certificate_nothing_is_shown_and_the_system_is_trusted() -> None:
    settings = Settings()

    assert (served(settings), trusted(settings), at_home(settings)) == (None, True, True)


def test_other_workers_are_verified_by_name_and_nothing_older_than_tls_1_2_is_spoken(certificate: Certificate) -> None:
    settings = Settings(tls_cert=certificate.cert, tls_key=certificate.key)

    shown, others = served(settings), trusted(settings)

    assert isinstance(others, ssl.SSLContext)
    assert (others.verify_mode, others.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert shown is not None
    assert shown.minimum_version == others.minimum_version == ssl.TLSVersion.TLSv1_2


def test_who_asks_at_home_trusts_that_certificate_alone_by_whatever_name(certificate: Certificate) -> None:
    context = at_home(Settings(tls_cert=certificate.cert, tls_key=certificate.key))

    assert isinstance(context, ssl.SSLContext)
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, False)
    assert len(context.get_ca_certs()) == 1


def chain(of: Certificate, by: Certificate) -> Settings:
    """A certificate and who has signed it, in one file, as README has it."""
    of.cert.write_text(f"Ours, für uns:\n{of.cert.read_text()}{by.cert.read_text()}", "utf-8")
    return Settings(tls_cert=of.cert, tls_key=of.key)


def test_what_else_the_signer_of_a_certificate_has_signed_is_not_trusted(
    certificate: Certificate, tmp_path: Path
) -> None:
    ours = chain(signed(certificate, tmp_path), certificate)
    (tmp_path / "other").mkdir()
    other = chain(signed(certificate, tmp_path / "other"), certificate)

    shown, theirs, trusts = served(ours), served(other), (at_home(ours), trusted(ours))

    check(ours)
    assert shown is not None
    assert theirs is not None
    for trust in trusts:
        assert isinstance(trust, ssl.SSLContext)
        trust.check_hostname = False
        shake_hands(trust, shown)
        with pytest.raises(ssl.SSLCertVerificationError):
            shake_hands(trust, theirs)


def test_a_certificate_that_has_expired_is_named_with_the_reason(certificate: Certificate, tmp_path: Path) -> None:
    expired = signed(certificate, tmp_path, days=-1)

    with pytest.raises(BadSettings, match=r"ACTIVESET_TLS_CERT must be .* not .*cert\.pem \(certificate has expired\)"):
        check(Settings(tls_cert=expired.cert, tls_key=expired.key))


def test_a_key_of_another_certificate_is_named(certificate: Certificate, other_certificate: Certificate) -> None:
    with pytest.raises(BadSettings, match="ACTIVESET_TLS_CERT and ACTIVESET_TLS_KEY must be a certificate and its"):
        check(Settings(tls_cert=certificate.cert, tls_key=other_certificate.key))


def test_a_key_with_a_password_is_named_and_nobody_is_asked_for_it(certificate: Certificate, tmp_path: Path) -> None:
    locked = tmp_path / "key.pem"
    secret = ("-aes256", "-passout", "pass:secret")
    subprocess.run(["openssl", "ec", "-in", certificate.key, *secret, "-out", locked], check=True, capture_output=True)

    with pytest.raises(BadSettings, match="ACTIVESET_TLS_KEY must be .* without a password"):
        check(Settings(tls_cert=certificate.cert, tls_key=locked))


def test_a_file_that_is_gone_by_the_start_is_named(certificate: Certificate, tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="ACTIVESET_TLS_KEY .*gone.pem"):
        check(Settings(tls_cert=certificate.cert, tls_key=tmp_path / "gone.pem"))


def test_a_ca_that_is_no_certificate_is_named(certificate: Certificate) -> None:
    with pytest.raises(BadSettings, match="ACTIVESET_TLS_CA"):
        check(Settings(tls_ca=certificate.key))
