"""Simulations: what choosing saves. Whole rounds of training, asking and labelling, against labels by lot.

Each round trains a model on the labels there are, publishes what it says of every medium, asks for the next ones, and
labels them. They go through a running service, or in this process: by the same events, folds and rankings, without
Kafka and HTTP, which is faster and chooses the same media, but for those by lot: a service draws others each time.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from typing import Any

import aiohttp
import msgspec
import numpy as np
from numpy.typing import NDArray

from agents.decide import Decider
from agents.score import NEEDS
from agents.trials import MODELS, Data, Start, passes
from deploy.trial import TrialFailed, heard
from streams.decode import decode
from streams.errors import BadSettings
from streams.events import EXTERNAL, EXTRACTORS, Granted, Preset, TaskLearning
from streams.producer import Artifacts, Producer, Receipt
from streams.record import Heard, Record
from tables.ranking import Ranking
from tables.rows import HASH_BYTES, Change, Kind, UploadRow, prefix_of, range_of
from web.items import pick

TASK, WORKSPACE = "task", "simulate"
EVENTS = "active_set_events"
LOT = "random"  # the strategy that all are measured against
LEASE_MS = 3_600_000
OF_PASSES = {name for name, needs in NEEDS.items() if "passes" in needs}


class Whole(TaskLearning, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A `TaskLearning` that says nothing else: what is misspelt would not count."""


def learning(strategy: str) -> TaskLearning:
    """How a task is to choose: a preset, an extractor (by its utility alone), or a `TaskLearning` as JSON.

    Raises:
        BadSettings: it is none.

    >>> learning("entropy").extractors
    {'entropy': 1.0}
    """
    try:
        if strategy in EXTRACTORS:
            return TaskLearning(preset="uncertainty", extractors={strategy: 1.0})
        if strategy.startswith("{"):
            return msgspec.json.decode(strategy, type=Whole)
        return TaskLearning(preset=msgspec.convert(strategy, Preset))
    except msgspec.MsgspecError as why:
        raise BadSettings(
            f"--strategy must be a preset, an extractor ({', '.join(EXTRACTORS)}), or JSON as for a task in "
            f"`active_learning`, not {strategy[:200]!r}: {why}"
        ) from why


def check(strategy: str, model: str) -> None:
    """Whether a model tells what a strategy looks at: without it media would go by chance.

    Raises:
        BadSettings: it does not, or the strategy is none.
    """
    asked = {*(learning(strategy).extractors or {})}
    if asked & OF_PASSES and model != "forest":
        raise BadSettings(f"--model must be forest for {strategy[:200]!r}: its trees are passes, {model} has one voice")
    if any(name.startswith(EXTERNAL) for name in asked):
        raise BadSettings(f"--strategy must be of built-in extractors: no model tells of {strategy[:200]!r}")


class Service(Producer):
    """A project of a service: events go in, sets come out."""

    def __init__(self, broker: str, project_id: str, prefix: str = "") -> None:
        super().__init__(broker, workspace_id=WORKSPACE, project_id=project_id, prefix=prefix)

    def bring(self, media: Sequence[str], features: NDArray[np.float64]) -> Receipt:
        """Features of media, before any model: what is typical is chosen first then."""
        return self.infer(TASK, "features", unseen=Artifacts(media=media, features=features.astype(np.float32)))

    def chosen(self, limit: int, annotators: int) -> list[list[str]]:
        """The media that are to be labelled now, of each annotator."""
        if annotators == 1:
            return [self._wait(self.suggested(limit))]
        shares = [limit // annotators + (n < limit % annotators) for n in range(annotators)]
        return [self._wait(self.leased(f"annotator-{n}", share)) for n, share in enumerate(shares) if share]

    async def suggested(self, limit: int) -> list[str]:
        """The set, marked as suggested."""
        raise NotImplementedError

    async def leased(self, user_id: str, limit: int) -> list[str]:
        """The set, leased to somebody."""
        raise NotImplementedError


class Rows(dict[bytes, dict[bytes, bytes]]):
    """The rows of a project, of each kind in a dict of its own."""

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:  # type: ignore[override] # the rows', not the dict's
        """The values of some keys."""
        return [super(Rows, self).get(range_of(key), {}).get(key) for key in keys]

    def scan(self, prefix: bytes, after: bytes = b"") -> Iterable[tuple[bytes, bytes]]:
        """All rows whose keys begin so, in order."""
        known = super().get(range_of(prefix), {})
        return [(key, known[key]) for key in sorted(known) if key.startswith(prefix) and key >= after]

    def take(self, changes: Iterable[Change]) -> None:
        """Write rows."""
        for key, value in changes:
            known = self.setdefault(range_of(key), {})
            if value is None:
                known.pop(key, None)
            else:
                known[key] = value


class InProcess(Service):
    """The folds and the ranking of a project, without Kafka and HTTP."""

    def __init__(self, project_id: str) -> None:
        super().__init__("", project_id)
        self.rows = Rows()
        self.ranking = Ranking(project_id, self.rows, patience_ms=0)
        self._offset, self._decider = -1, Decider(lambda *_: None)

    async def _connect(self) -> Any:
        return None

    async def _send(self, records: Sequence[Record]) -> int | None:
        for record in records:
            self._offset += 1
            event = decode(record, record.topic)
            heard = Heard(self._offset, event.timestamp)
            fold = await self._decider.decide(event, self.rows, heard)
            changes = fold(self.rows)
            self.rows.take(changes)
            self.ranking.update(changes)
        return self._offset

    async def suggested(self, limit: int) -> list[str]:
        """The set, marked as suggested."""
        return await self._granted(limit)

    async def leased(self, user_id: str, limit: int) -> list[str]:
        """The set, leased to somebody for an hour."""
        return await self._granted(limit, user_id)

    async def _granted(self, limit: int, user_id: str | None = None) -> list[str]:
        now = time.time_ns() // 1_000_000
        request = f"{self.project_id}-{self._offset}"
        places, _ = await self.ranking.best(TASK, limit, now, user_id, request)
        prefix = prefix_of(self.project_id, Kind.UPLOAD)
        uploads = self.rows.get([prefix + place.medium[:HASH_BYTES] for place in places])
        rows = zip(places, uploads, strict=True)
        media = [pick(place, UploadRow.unpack(row)) for place, row in rows if row is not None]
        event = Granted(
            workspace_id=WORKSPACE,
            project_id=self.project_id,
            timestamp=now,
            request_id=request,
            user_id=user_id,
            expires_at=None if user_id is None else now + LEASE_MS,
            media=media,
        )
        await self._send([Record(EVENTS, 0, self.project_id.encode(), msgspec.json.encode(event), [])])
        return [each.medium.media_id for each in media]


class Running(Service):
    """A project of a service that runs: Kafka's topics, and a worker's web server."""

    def __init__(self, broker: str, prefix: str, url: str, project_id: str) -> None:
        super().__init__(broker, project_id, prefix)
        self._url, self._heard = url, Receipt()

    def publish(self, topic: str, *events: Mapping[str, Any]) -> Receipt:
        """Publish events; what is asked for next is asked when they are applied."""
        told = super().publish(topic, *events)
        self._heard |= told
        return told

    async def suggested(self, limit: int) -> list[str]:
        """The set, marked as suggested."""
        path = f"/api/v1/organizations/o/workspaces/{WORKSPACE}/projects/{self.project_id}/datasets/active"
        return await self._asked("GET", f"{path}?task_id={TASK}&limit={limit}")

    async def leased(self, user_id: str, limit: int) -> list[str]:
        """The set, leased to somebody for an hour."""
        body = {"user_id": user_id, "task_id": TASK, "limit": limit, "ttl_s": LEASE_MS // 1000}
        return await self._asked("POST", f"/v1/projects/{self.project_id}/leases", body)

    async def _asked(self, method: str, path: str, body: Any = None) -> list[str]:
        async with aiohttp.ClientSession(self._url) as session:
            await heard(session, self.project_id, self._heard)
            async with session.request(method, path, json=body) as answer:
                told = await answer.json(content_type=None)
                if answer.status != 200:
                    raise TrialFailed(f"the set was refused: {answer.status} {told}")
                return [item["id"] for item in told["active_set"]]


@dataclass(frozen=True)
class Trial:
    """What is simulated: data, model, how many labels to begin with, at a time and in all, and by how many people."""

    data: Data
    model: str
    first: str
    batch: int
    budget: int
    annotators: int = 1


@dataclass
class Run:
    """One strategy and one seed: how accurate the model was with how many labels, and which media got them."""

    strategy: str
    seed: int
    curve: list[tuple[int, float]] = field(default_factory=list)
    labelled: list[int] = field(default_factory=list)
    classes: list[int] = field(default_factory=list)

    @property
    def area(self) -> float:
        """The mean accuracy over the curve."""
        return float(np.mean([accuracy for _, accuracy in self.curve]))

    def labels_to(self, target: float) -> float:
        """With how many labels the model was as accurate first; infinity if it never was."""
        return next((labels for labels, accuracy in self.curve if accuracy >= target), float("inf"))

    def share_of(self, rare: int, count: int) -> float:
        """The share of a class in the first labels."""
        return self.classes[:count].count(rare) / min(count, len(self.classes))


def project_of(trial: Trial, strategy: str, seed: int) -> str:
    """A project's id: ties go by chance, and that by the id, so the same one gives the same curve.

    JSON is in it as a hash: some differs in punctuation alone.
    """
    if strategy.startswith("{"):
        strategy = blake2b(strategy.encode(), digest_size=8).hexdigest()
    name = f"{trial.data.name[:100]}-{trial.model}-{trial.batch}-{trial.annotators}-{strategy}-{seed}"
    return "".join(each if each.isalnum() else "-" for each in name)


def simulate(trial: Trial, strategy: str, seed: int, service: Service, tell: Callable[[int, float], None]) -> Run:
    """Whole rounds of one strategy.

    tell: told the labels and the accuracy after each training.

    Raises:
        TrialFailed, or what a producer raises.
    """
    start, run = trial.data.begun(seed, trial.first), Run(strategy, seed)
    run.labelled = list(start.labelled)
    task = {"task_id": TASK, "task_type": "classification"}
    how = msgspec.to_builtins(learning(strategy))
    with service:
        service.project([task], name=trial.data.name, active_learning={"tasks": {TASK: how}})
        service.upload([str(n) for n in range(len(start.classes))])
        service.annotate([str(n) for n in start.labelled], {TASK: "annotated"})
        while True:
            tell(*learnt(trial, start, run, service))
            count = min(trial.batch, trial.budget - len(run.labelled), len(start.classes) - len(run.labelled))
            if count < 1:
                break
            for media in service.chosen(count, trial.annotators):
                chosen = [int(each) for each in media]
                if {*chosen} & {*run.labelled} or len({*chosen}) != len(chosen) or not chosen:
                    raise TrialFailed(f"a set must be of media without a label, each once, not {chosen}")
                service.annotate(media, {TASK: "annotated"})
                run.labelled += chosen
    run.classes = start.classes[run.labelled].tolist()
    return run


def learnt(trial: Trial, start: Start, run: Run, service: Service) -> tuple[int, float]:
    """Train a model on the labels there are, measure it, and publish what it says of every medium."""
    seen = np.array(run.labelled)
    model = MODELS[trial.model]().fit(start.features[seen], start.classes[seen])
    run.curve.append((len(seen), float(model.score(start.test, start.test_classes))))
    unseen = np.setdiff1d(np.arange(len(start.classes)), seen)
    name, asked = f"model-{len(seen)}", {*(learning(run.strategy).extractors or {})}
    told = partial(passes, model) if asked & OF_PASSES else model.predict_proba
    service.activate(TASK, name)
    if len(unseen):
        service.infer(
            TASK,
            name,
            seen=Artifacts(
                media=[str(n) for n in seen],
                labels=[trial.data.names[each] for each in start.classes[seen]],
                features=start.features[seen].astype(np.float32),
            ),
            unseen=Artifacts(
                media=[str(n) for n in unseen],
                probabilities=told(start.features[unseen]).astype(np.float32),
                features=start.features[unseen].astype(np.float32),
            ),
            classes=[trial.data.names[each] for each in model.classes_],
            novelty="novelty" in asked,
        )
    return run.curve[-1]
