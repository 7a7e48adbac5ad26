"""What CI looks at: ratios of CPU time, in a minute or two; they must not fall below half of what they are."""

from contextlib import AsyncExitStack
from dataclasses import replace

from streams.settings import Settings
from tests.bench.arms import Arm, ours, plain_faust
from tests.bench.feed import Load
from tests.bench.ingest import in_turn
from tests.bench.report import Figure, Report, ratios
from tests.bench.scoring import WIDTHS, speed

LOADS = {"features": Load(chunks=64), "probabilities": Load(chunks=64, features=0)}  # 4,096 rows for plain Faust
REPEAT = 3


async def short(settings: Settings, report: Report) -> None:
    """Measure the ratios that have a limit for CI."""
    async with AsyncExitStack() as stack:
        arms: list[Arm] = [
            await stack.enter_async_context(ours(settings)),
            await stack.enter_async_context(plain_faust(settings)),
        ]
        for name, load in LOADS.items():
            mine, plain = (await in_turn(arms, load, name, REPEAT)).values()
            costs = ratios([each.cost for each in plain], [each.cost for each in mine])
            report.add(Figure(f"ingest.{name}.cpu", f"{name}: CPU of plain Faust / ours", "x", costs))
    for width in WIDTHS:
        report.add(speed(width)[0])


def below(report: Report) -> list[Figure]:
    """What is less than CI allows."""
    limits = [(each, each.limit) for each in report.figures]
    return [each for each, limit in limits if limit is not None and limit.ci is not None and each.median < limit.ci]


async def twice(settings: Settings, report: Report) -> list[Figure]:
    """Measure, and once more if something was less than CI allows, as another program may have been in the way."""
    for turn in ("first", "second"):
        report.figures.clear()
        folder = settings.state_dir / turn
        folder.mkdir()
        await short(replace(settings, state_dir=folder, topic_prefix=f"{settings.topic_prefix}{turn}."), report)
        if not below(report):
            break
    return below(report)
