import pytest

from tables import gaps
from tables.gaps import Gaps, Verdict


def judged(gaps: Gaps, *offsets: int, last: int = -1) -> list[Verdict]:
    """What becomes of records in the order in which they come; what is applied is the last one from then on."""
    verdicts = []
    for offset in offsets:
        verdict = gaps.judge("t", last, offset)
        if verdict in (Verdict.APPLY, Verdict.APPLY_AFTER_GAP):
            last = offset
        verdicts.append(verdict)
    return verdicts


APPLY, AFTER, SKIP, AGAIN, WAIT = (
    Verdict.APPLY,
    Verdict.APPLY_AFTER_GAP,
    Verdict.SKIP,
    Verdict.READ_AGAIN,
    Verdict.WAIT,
)


@pytest.mark.parametrize(
    ("offsets", "verdicts"),
    [
        ([0, 1, 2], [APPLY, APPLY, APPLY]),
        ([0, 1, 0, 1, 2], [APPLY, APPLY, SKIP, SKIP, APPLY]),
        ([500, 500, 501], [AGAIN, AFTER, APPLY]),  # what was before is not kept any more
        ([0, 3, 4, 5, 1, 2, 3, 4, 5], [APPLY, AGAIN, WAIT, WAIT, *[APPLY] * 5]),  # it got lost on its way
        ([0, 3, 4, 3, 4], [APPLY, AGAIN, WAIT, AFTER, APPLY]),  # it is not there
        ([0, 3, 4, 2, 3, 4], [APPLY, AGAIN, WAIT, AFTER, APPLY, APPLY]),  # one is, one is not
        ([0, 2, 2, 4, 4, 6, 6], [APPLY, AGAIN, AFTER, AGAIN, AFTER, AGAIN, AFTER]),  # somebody writes in transactions
    ],
)
def test_what_is_missing_is_read_again_once(offsets: list[int], verdicts: list[Verdict]) -> None:
    assert judged(Gaps(), *offsets) == verdicts


def test_topics_have_gaps_of_their_own() -> None:
    gaps = Gaps()

    assert [gaps.judge(topic, 0, 2) for topic in ("a", "b", "a")] == [AGAIN, AGAIN, AFTER]


def test_what_was_asked_for_and_does_not_come_is_asked_for_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gaps, "PATIENCE", 3)

    verdicts = judged(Gaps(), 2, 3, 4, 5, 6, 7, 6, 7)

    assert verdicts == [AGAIN, WAIT, WAIT, WAIT, AGAIN, WAIT, AFTER, APPLY]
