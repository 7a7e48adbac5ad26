from typing import Any

import msgspec
import numpy as np
import pytest

from agents.decide import long
from agents.extractors import Seen
from streams.events import ArtifactsInferred
from streams.tensors import Tensor
from tests.core.table import chunk


@pytest.mark.parametrize(
    ("rows", "features", "seen", "more", "told"),
    [
        (256, 256, 1000, {}, False),
        (256, 256, 1000, {"novelty": True}, True),
        (100, 1024, 1000, {}, True),
        (100, 1024, 0, {}, False),
        (1000, 256, 0, {}, True),
        (1, 20_000, 0, {}, True),
        (2500, 4, 0, {}, True),
        (256, 256, 0, {"probabilities": [[0.5, 0.5]] * 256}, True),  # lists take long to read
    ],
    ids=["usual", "novelty", "many products", "nothing seen", "many rows", "long ones", "many media", "lists"],
)
def test_what_takes_more_than_some_milliseconds_to_score_is_left_to_a_thread(
    rows: int, features: int, seen: int, more: dict[str, Any], told: bool
) -> None:
    given = Tensor.of(np.zeros((rows, features), np.float16))
    media = [{"media_type": "image", "media_id": f"m{n}"} for n in range(rows)]
    event = msgspec.convert(
        {
            **chunk("a", "m"),
            "workspace_id": "w",
            "project_id": "p",
            "timestamp": 1,
            "media": media,
            "labels": None,
            "probabilities": None,
            "features": given,
            **more,
        },
        ArtifactsInferred,
    )

    assert long(event, Seen(np.zeros((seen, features)), [1] * seen) if seen else None) is told
