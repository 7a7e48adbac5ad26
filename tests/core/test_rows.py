import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.media import Image, Video, VideoFrame
from tables.rows import (
    FOREVER,
    GRANT,
    ActivationRow,
    BatchRow,
    Kind,
    UploadRow,
    live,
    medium_bytes,
    pack_int,
    prefix_of,
    project_of,
    unpack_int,
    whole_bytes,
)


@pytest.mark.parametrize(
    "row",
    [
        UploadRow(7, 0, 1, 5, b"{}"),
        BatchRow(8, -1, 0b1011, 4, (9, 2)),
        BatchRow(8, 9),
        ActivationRow(7, "modèle"),
    ],
)
def test_a_row_is_the_same_when_it_is_read_again(row: UploadRow | BatchRow | ActivationRow) -> None:
    assert type(row).unpack(row.pack()) == row


@given(st.integers(-(2**63), 2**63 - 1), st.binary())
def test_a_time_at_the_head_of_a_row_is_read_without_the_rest(number: int, rest: bytes) -> None:
    assert unpack_int(pack_int(number) + rest) == number


@given(st.text(min_size=1), st.text(min_size=1))
def test_no_projects_rows_lie_among_anothers(one: str, other: str) -> None:
    try:
        prefixes = [prefix_of(one), prefix_of(other)]
    except UnicodeEncodeError:
        return
    assert prefixes[0].startswith(prefixes[1]) is (one == other)
    assert [project_of(prefix + bytes([Kind.GRANT])) for prefix in prefixes] == [one, other]


def test_an_image_and_a_video_of_one_id_are_two_and_a_frame_belongs_to_its_video() -> None:
    frame, video, image = VideoFrame("x", 30), Video("x"), Image("x")

    assert whole_bytes(video) == medium_bytes(frame)[:8] != whole_bytes(image)
    assert len({medium_bytes(frame), medium_bytes(VideoFrame("x", 31)), medium_bytes(image)}) == 3


@pytest.mark.parametrize(
    ("here", "chunks", "complete"), [(0b111, 3, True), (0b101, 3, False), (0b100101, 3, False), (0b1, -1, False)]
)
def test_a_batch_is_complete_when_all_its_chunks_are_here(here: int, chunks: int, complete: bool) -> None:
    assert BatchRow(0, chunks, here).complete is complete


def test_grants_without_an_end_live_until_a_reset_and_others_until_their_end() -> None:
    grants = np.array(
        [(5, 1, True, FOREVER, 1), (9, 1, True, FOREVER, 1), (5, 1, True, 100, 1), (9, 1, True, 50, 1)], GRANT
    )

    assert live(grants, reset=7, now=99).tolist() == [False, True, True, False]
