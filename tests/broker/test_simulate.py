"""Simulations through the running service: it chooses what is chosen without Kafka and HTTP."""

import asyncio
from functools import partial

import pytest

from agents.simulate import InProcess, Running, Service, Trial, project_of, simulate
from agents.trials import digits
from tests.broker.conftest import Start, until
from tests.broker.test_worker import WORKER


@pytest.mark.parametrize("annotators", [1, 2])
async def test_the_service_chooses_the_media_that_are_chosen_in_process(
    kafka: str, prefix: str, start: Start, annotators: int
) -> None:
    worker = await start(*WORKER, broker=kafka, topic_prefix=prefix)
    await until(worker.partitions, worker)
    trial = Trial(digits(), "logistic", "2x", batch=10, budget=60, annotators=annotators)
    project = project_of(trial, "balanced", 0)

    def chosen(service: Service) -> list[int]:
        return simulate(trial, "balanced", 0, service, lambda *_: None).labelled

    through_the_service = await asyncio.to_thread(partial(chosen, Running(kafka, prefix, worker.url, project)))
    in_process = await asyncio.to_thread(partial(chosen, InProcess(project)))

    assert through_the_service == in_process
    assert len(in_process) == 60


async def test_the_command_tells_how_it_gets_on_and_writes_what_came_of_it(
    start: Start, kafka: str, prefix: str
) -> None:
    command = await start(
        *("agents", "simulate", "--seeds", "1", "--budget", "30", "--npz", "nothing.npz"), broker=kafka
    )

    assert await command.ends() == 2
    assert "activeset: --npz must be a file of numpy" in command.said()

    command = await start(*("agents", "simulate", "--seeds", "1", "--budget", "30"), broker=kafka, topic_prefix=prefix)

    assert await command.ends() == 0, command.said()
    assert "balanced, seed 0: area 0." in command.said()
    rows = (command.state / "simulate" / "digits.csv").read_text().splitlines()
    assert [row.rsplit(",", 1)[0] for row in rows[1:]] == [
        "balanced,0,20",
        "balanced,0,30",
        "random,0,20",
        "random,0,30",
    ]
    assert (command.state / "simulate" / "digits.png").stat().st_size > 0
