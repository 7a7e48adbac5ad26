"""What choosing saves, in this process: a few seeds, with margins so wide that only a fault closes them."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped] # nothing tells its types

from agents import results
from agents.__main__ import main
from agents.extractors import Seen, bald, novelty, vote_entropy
from agents.simulate import InProcess, Run, Trial, check, learning, project_of, simulate
from agents.trials import MODELS, Data, Floats, Start, digits, passes, wdbc
from streams.errors import BadSettings

DIGITS = digits()


@pytest.fixture(autouse=True, scope="module")
def one_blas_thread() -> Iterator[None]:
    """As `make test` has it: several that wait for each other take five times as long."""
    with threadpool_limits(1):
        yield


def runs(trial: Trial, strategy: str, seeds: int) -> list[Run]:
    return [
        simulate(trial, strategy, seed, InProcess(project_of(trial, strategy, seed)), lambda *_: None)
        for seed in range(seeds)
    ]


def area(done: list[Run]) -> float:
    return float(np.mean([run.area for run in done]))


def trial(data: Data = DIGITS, *, batch: int = 10, budget: int = 120, first: str = "2x", annotators: int = 1) -> Trial:
    return Trial(data, data.model, first, batch, budget, annotators)


@pytest.mark.timeout(120)
def test_chosen_digits_need_far_fewer_labels_than_those_by_lot() -> None:
    chosen, margin, by_lot = (runs(trial(), strategy, 3) for strategy in ("balanced", "margin", "random"))

    assert area(chosen) > area(by_lot) + 0.03
    assert area(chosen) > area(margin) + 0.003
    assert np.median([run.labels_to(0.9) for run in chosen]) <= 70


def test_the_same_simulation_gives_the_same_media() -> None:
    first, second = (runs(trial(budget=60), "balanced", 1)[0] for _ in range(2))

    assert first.labelled == second.labelled
    assert first.curve == second.curve


def test_each_set_draws_lots_of_its_own_the_same_ones_if_done_again() -> None:
    def lots(*limits: int) -> list[str]:
        with InProcess("lots") as service:
            service.project([{"task_id": "task"}], active_learning={"tasks": {"task": {"explore": 1}}})
            service.upload([str(n) for n in range(100)])
            return [medium for limit in limits for medium in service.chosen(limit, 1)[0]]

    assert {*lots(10, 10)} != {*lots(20)}
    assert lots(10, 10) == lots(10, 10)


def test_two_who_lease_side_by_side_learn_as_much_as_one() -> None:
    alone, together = (runs(trial(annotators=each), "balanced", 3) for each in (1, 2))

    assert abs(area(alone) - area(together)) < 0.02
    assert all(len({*run.labelled}) == len(run.labelled) == 120 for run in together)


@pytest.mark.timeout(120)
def test_a_class_that_is_rare_gets_more_labels_than_by_lot_and_still_more_by_quotas() -> None:
    rare = trial(DIGITS.thinned("3:0.05"), first="20", budget=100)

    shares = {
        strategy: float(np.mean([run.share_of(3, 100) for run in runs(rare, strategy, 3)]))
        for strategy in ("random", "balanced", '{"quotas": "uniform"}')
    }

    by_lot, chosen, by_quota = shares.values()
    assert chosen > 1.2 * by_lot
    assert by_quota > 1.5 * by_lot


def test_ten_labels_before_any_model_cover_most_classes() -> None:
    covered = []
    for seed in range(4):
        start, service = DIGITS.begun(seed), InProcess(f"cold-{seed}")
        with service:
            service.project([{"task_id": "task", "task_type": "classification"}])
            media = [str(n) for n in range(len(start.classes))]
            service.upload(media)
            service.bring(media, start.features)
            [chosen] = service.chosen(10, 1)
        covered.append(len({*start.classes[[int(each) for each in chosen]].tolist()}))

    assert np.mean(covered) >= 8


def test_breast_cancer_is_learnt_from_margins_one_at_a_time() -> None:
    one = trial(wdbc(), batch=1, budget=40, first="20")

    assert area(runs(one, "margin", 3)) > area(runs(one, "random", 3))


@pytest.mark.parametrize(
    ("strategy", "told"),
    [
        ("balanced", {"preset": "balanced"}),
        ("entropy", {"preset": "uncertainty", "extractors": {"entropy": 1.0}}),
        ('{"quotas": "uniform"}', {"quotas": "uniform"}),
    ],
)
def test_a_strategy_is_a_preset_an_extractor_or_what_a_task_may_say(strategy: str, told: dict[str, object]) -> None:
    found = learning(strategy)

    assert {name: getattr(found, name) for name in told} == told


@pytest.mark.parametrize("strategy", ["best", "external:x", "{", '{"explore": 2}', '{"explor": 1}', ""])
def test_a_strategy_that_is_none_is_told(strategy: str) -> None:
    with pytest.raises(BadSettings, match="--strategy must be"):
        learning(strategy)


def first_set(strategy: str, model: str = "logistic") -> tuple[Start, list[int], list[int]]:
    [done] = runs(replace(trial(budget=30), model=model), strategy, 1)
    return DIGITS.begun(0), done.labelled[:20], done.labelled[20:]


@pytest.mark.parametrize("strategy", ["novelty", '{"preset": "uncertainty", "extractors": {"novelty": 2}}'])
def test_by_novelty_what_is_farthest_from_the_labels_is_chosen(strategy: str) -> None:
    start, labelled, chosen = first_set(strategy)

    away = novelty(start.features, Seen(start.features[labelled], [None] * 20))

    assert sorted(chosen) == sorted(np.argsort(away)[-10:].tolist())


@pytest.mark.parametrize("of", [bald, vote_entropy])
def test_what_the_trees_of_a_forest_disagree_on_is_chosen(of: Callable[..., Floats]) -> None:
    start, labelled, chosen = first_set(of.__name__, "forest")

    forest = MODELS["forest"]().fit(start.features[labelled], start.classes[labelled])
    utility = of(passes(forest, start.features))
    utility[labelled] = -1

    assert np.sort(utility[chosen]) == pytest.approx(np.sort(utility)[-10:])


@pytest.mark.parametrize("strategy", ["bald", '{"extractors": {"margin": 1, "vote_entropy": 1}}'])
def test_a_model_of_one_voice_is_not_asked_what_its_passes_disagree_on(strategy: str) -> None:
    check(strategy, "forest")

    with pytest.raises(BadSettings, match="--model must be forest"):
        check(strategy, "logistic")


def test_an_extractor_that_no_model_tells_of_is_told() -> None:
    with pytest.raises(BadSettings, match="built-in extractors"):
        check('{"extractors": {"external:x": 1}}', "forest")


def test_each_strategy_and_seed_has_a_project_of_its_own() -> None:
    long = "{" + " " * 200 + "}"
    thinned = trial(DIGITS.thinned("3:0.05"))

    projects = {
        project_of(trial(), strategy, seed)
        for strategy in ('{"quotas":{"+":1}}', '{"quotas":{"-":1}}', long)
        for seed in (0, 1)
    }

    assert len(projects) == 6
    assert len(project_of(trial(replace(DIGITS, name="x" * 250)), long, 0)) < 180
    assert project_of(trial(), "balanced", 0) == "digits-logistic-10-1-balanced-0"
    assert project_of(thinned, "random", 1) == "digits-3-0-05-logistic-10-1-random-1"


def test_a_users_own_data_are_read_and_what_is_none_is_told(tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", X=np.eye(4), y=["b", "a", "b", "a"])
    whole = (tmp_path / "mine.npz").read_bytes()
    (tmp_path / "empty.npz").touch()
    (tmp_path / "short.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "torn.npz").write_bytes(whole[:150] + b"torn" + whole[154:])
    np.save(tmp_path / "array.npy", np.eye(4))

    mine = Data.of_file(tmp_path / "mine.npz")

    assert (mine.name, mine.features.shape, mine.classes.tolist()) == ("mine", (4, 4), [1, 0, 1, 0])
    assert mine.names == ("a", "b")
    for name in ("none.npz", "empty.npz", "short.npz", "torn.npz", "array.npy", "."):
        with pytest.raises(BadSettings, match="--npz must be a file of numpy"):
            Data.of_file(tmp_path / name)


@pytest.mark.parametrize(
    ("features", "classes"),
    [
        (np.eye(4), [1, 2]),
        (np.ones((4, 0)), [1, 1, 2, 2]),
        (np.full((4, 1), np.inf), [1, 1, 2, 2]),
        (np.eye(4), [1, 1, np.nan, np.nan]),
        (np.eye(4), [1, 1, 1, 1]),
        (np.eye(4), [1, 1, 1, 2]),
        (np.ones((0, 4)), []),
        (np.eye(4), ["a", "a", "b/c", "b/c"]),
    ],
)
def test_data_of_which_nothing_can_be_learnt_are_told(tmp_path: Path, features: Floats, classes: list[object]) -> None:
    np.savez(tmp_path / "mine.npz", X=features, y=np.array(classes))

    with pytest.raises(BadSettings, match="--npz must have"):
        Data.of_file(tmp_path / "mine.npz")


@pytest.mark.parametrize("told", ["", "3", "x:0.1", "34:0.1", "3:", "3:nan", "3:1", "3:2", "3:0.9", "12:0.1"])
def test_a_class_that_cannot_be_thinned_so_is_told(told: str) -> None:
    with pytest.raises(BadSettings, match="--thin must"):
        DIGITS.thinned(told)


def commanded(folder: Path, *arguments: str) -> int:
    return main(["simulate", "--in-process", "--seeds", "2", "--budget", "30", "--out", str(folder), *arguments])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        *((["--first", first], "--first must") for first in ("0", "0x", "1", "-1", "x", "9" * 30, "5000", "500x")),
        *((["--target", target], "--target must") for target in ("nan", "0", "-0.5", "1.01", "inf")),
        (["--strategy", '{"explor": 1}'], "--strategy must"),
        (["--strategy", "bald"], "--model must be forest"),
        (["--strategy", '{"extractors": {"vote_entropy": 1}}', "--model", "svm"], "--model must be forest"),
        (["--thin", ""], "--thin must"),
        (["--thin", "3:0.0006"], "--npz and --thin must leave"),
        (["--out", "/dev/null/here"], "--out must be a folder that can be written"),
        (["--out", "/proc"], "--out must be a folder that can be written"),
    ],
)
def test_what_cannot_be_simulated_is_told_before_anything_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    assert commanded(tmp_path, *arguments) == 2

    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"activeset: {told}")


@pytest.mark.parametrize("classes", [("1", "2", "3"), ("cat", "a:dog", "[b]")])
def test_a_users_own_class_is_thinned_and_told_by_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], classes: tuple[str, ...]
) -> None:
    features = np.random.default_rng(0).normal(size=(300, 4))
    told: list[object] = [int(each) if each.isdigit() else each for each in classes]
    np.savez(tmp_path / "mine.npz", X=features, y=np.array(told * 100))

    for rare in classes:
        assert commanded(tmp_path, "--npz", str(tmp_path / "mine.npz"), "--thin", f"{rare}:0.2") == 0
        assert f"class {rare} of" in " ".join(capsys.readouterr().out.split())


def test_results_are_told_in_a_table_a_csv_and_a_chart(tmp_path: Path) -> None:
    done = [Run("balanced", seed, [(20, 0.8), (30, 0.9)], list(range(30)), [seed] * 30) for seed in (0, 1)] + [
        Run("random", 0, [(20, 0.7), (30, 0.8)], list(range(30)), [0] * 30)
    ]

    [chosen, by_lot] = results.summaries(done, [0.9], 1)
    results.write(done, tmp_path / "a.csv")
    results.draw(done, "title", tmp_path / "a.png")

    assert tuple(chosen) == ("balanced", pytest.approx(0.85), 0.0, [30], 0.5)
    assert (by_lot.labels_to, by_lot.share) == ([float("inf")], 0.0)
    assert (tmp_path / "a.csv").read_text().splitlines()[:2] == [
        "strategy,seed,labels,accuracy",
        "balanced,0,20,0.800000",
    ]
    assert (tmp_path / "a.png").stat().st_size > 0
