"""Geti's own client, as it is published, against a real worker: `pytest -m geti`.

The client's environment, 800 MB, is made once for this machine, beside Kafka's jars.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from streams.producer import Producer, Receipt
from streams.settings import Settings
from tests.broker.conftest import Start, until
from tests.broker.test_active_set import README, SAFE, heard
from tests.broker.test_worker import WORKER
from tests.conftest import OURS, Certificate

pytestmark = pytest.mark.geti

GETI = "geti-sdk==2.13.*"


@pytest.fixture(scope="module")
def python_with_geti() -> Path:
    """The Python of a virtual environment that has Geti's client."""
    folder = Settings.from_environ(OURS).cache_dir.expanduser() / "geti-sdk-2.13"
    python, whole = folder / "bin" / "python", folder / "whole"
    if not whole.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", GETI], check=True)
        whole.touch()
    return python


def published(kafka: str, prefix: str) -> Receipt:
    """A project with images and a video, of which nothing more than its frames is told."""
    cat = {"media_type": "image", "media_id": "m2", "name": "A cat", "media_information": {"width": 9}}
    video = {"media_type": "video", "media_id": "v1", "name": "A film", "frame_count": 90, "frame_stride": 30}
    with Producer(kafka, workspace_id="w1", project_id="p1", prefix=prefix) as producer:
        return {
            **producer.project([{"task_id": "t1"}]),
            **producer.upload(["m1", cat, video]),
            **producer.annotate(["m1"], {"t1": "annotated"}),
        }


async def test_getis_own_client_logs_in_and_gets_the_active_set(
    python_with_geti: Path, kafka: str, prefix: str, start: Start, certificate: Certificate, tmp_path: Path
) -> None:
    worker = await start(*WORKER, broker=kafka, topic_prefix=prefix, tls_cert=certificate.cert, tls_key=certificate.key)
    await until(worker.partitions, worker)
    receipt = await asyncio.to_thread(published, kafka, prefix)
    await until(partial(heard, worker, receipt), worker)
    _, answer = await worker.get(SAFE)
    example = "from geti_sdk" + README.read_text().partition("from geti_sdk")[2].partition("```")[0]
    assert "https://127.0.0.1:6066" in example
    script = tmp_path / "script.py"
    script.write_text(example.replace("https://127.0.0.1:6066", worker.url))

    environ = {**os.environ, "REQUESTS_CA_BUNDLE": str(certificate.cert)}
    command = [python_with_geti, script]
    done = await asyncio.to_thread(subprocess.run, command, env=environ, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [*media(answer["active_set"])]
    assert sorted(done.stdout.splitlines()) == ["m2 A cat", *(f"v1 A film_frame_{frame}" for frame in (0, 30, 60))]


def media(items: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What the client makes of an active set, in order."""
    for item in items:
        for frame in item.get("active_frames", (None,)):
            yield f"{item['id']} {item['name']}" + ("" if frame is None else f"_frame_{frame}")
