"""The rules of the house: which way imports point, who may know Faust, how rows are written, what the README says."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from streams.settings import Settings
from streams.topics import TOPICS
from web.routes import ROUTES

HOUSE = Path(__file__).parents[2]
# A folder may import those after it. `deploy` runs the others as programs, and knows only what is said.
ORDER = ("agents", "web", "tables", "streams")
MAY_IMPORT = {**{folder: {*ORDER[place:]} for place, folder in enumerate(ORDER)}, "deploy": {"deploy", "streams"}}
MAY_IMPORT["agents"].add("deploy")  # simulations start a Kafka and a worker
DOORS = {
    "streams/app.py",
    "streams/lenient.py",
    "streams/offsets.py",
    "streams/overrides.py",
    "streams/producer.py",
    "streams/reader.py",
    "streams/topics.py",
    "tables/batch.py",
    "tables/state.py",
    "web/door.py",
    "web/views.py",
    "agents/curate.py",
    "agents/sensor.py",
    "agents/watch.py",
    "agents/worker.py",
}
OF_DOORS = {"faust", "mode", "aiokafka"}
OF_ALL = {"aiokafka.partitioner", "aiokafka.errors"}  # a function, and names; they connect to nothing
MODULES = sorted(path for folder in MAY_IMPORT for path in (HOUSE / folder).rglob("*.py"))


def name(path: Path) -> str:
    return path.relative_to(HOUSE).as_posix()


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name(path)}:{node.lineno} imports relatively"
            yield node.module or ""


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_imports_point_one_way(path: Path) -> None:
    folder = name(path).partition("/")[0]

    others = {module.partition(".")[0] for module in imported(path)} & (MAY_IMPORT.keys() | {"tests"})

    assert others <= MAY_IMPORT[folder]


@pytest.mark.parametrize("path", [path for path in MODULES if name(path) not in DOORS], ids=name)
def test_only_doors_know_faust(path: Path) -> None:
    if name(path).startswith("deploy/"):
        known = {module for module in imported(path) if module.partition(".")[0] in ("faust", "mode")}
    else:
        known = {module for module in imported(path) if module.partition(".")[0] in OF_DOORS} - OF_ALL

    assert not known


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_no_row_is_written_past_the_changelog(path: Path) -> None:
    assert not written_past_the_changelog(path.read_text())


@pytest.mark.parametrize(
    "code", ["table[k] = v", "self.table[k] = v", "del app.tables['state'][k]", "t = app.Table('x')\nt[k] += v"]
)
def test_a_row_that_is_written_past_the_changelog_is_found(code: str) -> None:
    assert written_past_the_changelog(code)


def written_past_the_changelog(code: str) -> list[int]:
    """The lines that set or delete a key of a Faust table: that writes RocksDB before Kafka has the row."""
    tree = ast.parse(code)
    tables = {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value and names_a_table(node.value)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Subscript)
        and isinstance(node.ctx, ast.Store | ast.Del)
        and (names_a_table(node.value) or any(isinstance(n, ast.Name) and n.id in tables for n in ast.walk(node.value)))
    ]


def names_a_table(node: ast.AST) -> bool:
    """Whether a table is named somewhere in an expression."""
    named = (part.id if isinstance(part, ast.Name) else getattr(part, "attr", "") for part in ast.walk(node))
    return any("table" in each.lower() for each in named)


def test_every_folder_has_an_init_that_says_what_it_is() -> None:
    for folder in MAY_IMPORT:
        assert ast.get_docstring(ast.parse((HOUSE / folder / "__init__.py").read_text()))


def test_the_readme_lists_the_settings_there_are() -> None:
    wanted = [
        f"| `{row.variable}` | {f'`{row.default}`' if row.default else ''} | {row.meaning} |" for row in Settings.rows()
    ]

    assert table_under("| variable |") == [" ".join(row.split()) for row in wanted]


def test_the_readme_lists_the_topics_there_are() -> None:
    wanted = [f"| `{topic.name}` | {topic.meaning} | {topic.kept} |" for topic in TOPICS]

    assert table_under("| topic |") == wanted


def test_the_readme_lists_the_routes_there_are() -> None:
    wanted = [f"| `{route.method} {route.path}` | {route.meaning} |" for route in ROUTES]

    assert table_under("| route |") == wanted


def table_under(head: str) -> list[str]:
    """The rows of the README's table with this head."""
    lines = iter((HOUSE / "README.md").read_text().splitlines())
    assert any(line.startswith(head) for line in lines), f"the README has no table {head}"
    next(lines)
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append(" ".join(line.split()))
    return rows
