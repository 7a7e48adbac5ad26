from dataclasses import replace
from pathlib import Path

import pytest

from streams.errors import BadSettings
from streams.settings import Settings


def test_nothing_set_suits_a_laptop() -> None:
    settings = Settings.from_environ({"HOME": "/home/me", "PATH": "/bin"})

    assert (settings.broker, settings.web_bind, settings.partitions) == ("", "127.0.0.1", 8)
    assert settings.worker_dir == Path(".state/worker")


def test_what_is_set_counts() -> None:
    settings = Settings.from_environ(
        {
            "ACTIVESET_BROKER": "kafka-1:9092, kafka-2.svc.:9092",
            "ACTIVESET_TOPIC_PREFIX": "staging.",
            "ACTIVESET_STATE_DIR": "/var/lib/activeset",
            "ACTIVESET_CREATE_TOPICS": "no",
        }
    )

    assert settings.broker == "kafka-1:9092,kafka-2.svc.:9092"
    assert settings.name("media_uploads") == "staging.media_uploads"
    assert settings.worker_dir == Path("/var/lib/activeset/worker")
    assert settings.create_topics is False


def test_an_empty_variable_counts_as_unset() -> None:
    assert Settings.from_environ({"ACTIVESET_WEB_PORT": " "}) == Settings()


@pytest.mark.parametrize(
    ("variable", "value", "must_be"),
    [
        ("BROKER", "kafka", "host:port"),
        ("BROKER", "kafka:0", "port 1..65535"),
        ("BROKER", "kafka:9092,", "host:port"),
        ("BROKER", "...:9092", "host:port"),
        ("BROKER", "::1:9092", "host:port"),
        ("STATE_DIR", "~nobody-of-this-name/x", "a folder"),
        ("STATE_DIR", "x" * 300, "a folder"),
        ("CACHE_DIR", "/a:b", "without a colon"),
        ("JAVA", "~nobody-of-this-name/java", "a program"),
        ("JAVA", "x" * 300, "a program"),
        ("WEB_BIND", "a..b", "a host name"),
        ("BROKER", "kafka://kafka:9092", "host:port"),
        ("TOPIC_PREFIX", "a b", "letters, digits"),
        ("PARTITIONS", "0", "1..1024"),
        ("PARTITIONS", "eight", "a whole number"),
        ("PARTITIONS", "8.0", "a whole number"),
        ("PARTITIONS", "9" * 5000, "1..1024"),
        ("REPLICATION", "-1", "1..9"),
        ("CREATE_TOPICS", "maybe", "yes, no"),
        ("SESSION_TIMEOUT_S", "5", "6..300"),
        ("DATA_DIR", __file__, "a folder"),
        ("WEB_BIND", "localhost:80", "without a port"),
        ("WEB_PORT", "65536", "1..65535"),
        ("LOG_LEVEL", "loud", "debug, info, warning, error"),
        ("LOG_FORMAT", "xml", "text, json"),
        ("JAVA", "/no/such/java", "a program"),
        ("TLS_CERT", "/no/such/cert.pem", "a PEM file"),
        ("TLS_KEY", "/", "a PEM file"),
        ("TLS_CA", "x" * 300, "a PEM file"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named_with_its_range(variable: str, value: str, must_be: str) -> None:
    with pytest.raises(BadSettings) as told:
        Settings.from_environ({f"ACTIVESET_{variable}": value})

    assert str(told.value).startswith(f"ACTIVESET_{variable} must be ")
    assert must_be in str(told.value)
    assert len(str(told.value)) < 300


@pytest.mark.parametrize("one", ["CERT", "KEY"])
def test_a_certificate_has_a_key(one: str) -> None:
    with pytest.raises(BadSettings, match="ACTIVESET_TLS_CERT and ACTIVESET_TLS_KEY must be set both, or neither"):
        Settings.from_environ({f"ACTIVESET_TLS_{one}": __file__})


def test_with_a_certificate_every_url_is_https() -> None:
    settings = Settings(web_host="worker-1.example", web_bind="::", tls_cert=Path("c"), tls_key=Path("k"))

    assert settings.url == "https://[::]:6066"
    assert settings.url_for_others == "https://worker-1.example:6066"


def test_a_relative_path_is_meant_from_where_the_program_starts() -> None:
    settings = Settings.from_environ({"ACTIVESET_CACHE_DIR": "cache", "ACTIVESET_DATA_DIR": "data"})

    assert settings.cache_dir == Path.cwd() / "cache"
    assert settings.worker_dir == Path.cwd() / "data"


def test_a_misspelt_variable_is_told_and_not_ignored() -> None:
    with pytest.raises(BadSettings, match=r"ACTIVESET_BROKERS is not a setting; did you mean ACTIVESET_BROKER\?"):
        Settings.from_environ({"ACTIVESET_BROKERS": "kafka:9092"})


def test_a_program_of_ours_gets_the_same_settings_and_no_others() -> None:
    settings = Settings(broker="k:1", create_topics=False, topic_prefix="None", web_port=7, data_dir=Path("/d"))

    environ = settings.environ({"PATH": "/bin", "ACTIVESET_JAVA": "/usr/bin/java", "ACTIVESET_TYPO": "x"})

    assert environ["PATH"] == "/bin"
    assert (
        replace(Settings.from_environ(environ), state_dir=settings.state_dir, cache_dir=settings.cache_dir) == settings
    )
