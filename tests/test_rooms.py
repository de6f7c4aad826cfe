"""The rooms import each other in one direction only; a file has one module name."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Each room, and the rooms that it may import beside itself. Only what stands above a line may be imported by it.
MAY_IMPORT = {
    "errors": set(),
    "version": set(),
    "files": set(),
    "text": set(),
    "streams": set(),
    "html": {"text"},
    "attention": {"errors"},
    "data": {"errors", "files", "text"},
    "nn": {"errors", "attention", "data"},
    "protocols": {"data"},
    "training": {"errors", "files", "text", "data", "nn", "protocols"},
    "evaluation": {"errors", "version", "files", "text", "data", "protocols"},
    "inspection": {"errors", "files", "text", "html", "data", "evaluation"},
    "report": {"errors", "files", "text", "html", "data", "evaluation", "training"},
    "analysis": {"errors", "files", "text", "attention", "data", "nn", "protocols", "training", "evaluation"},
}
LIBRARY = {*MAY_IMPORT}
MAY_IMPORT |= {
    "experiments": LIBRARY - {"attention"},
    "agents": LIBRARY - {"experiments", "report", "inspection", "analysis"},
    "envs": LIBRARY,
    "api": LIBRARY | {"experiments", "agents", "envs"},
    "scripts": LIBRARY | {"experiments", "agents", "envs", "api"},
}
TOP_LEVEL = {"agents", "envs", "scripts"}


def files_of(room: str) -> list[Path]:
    folder = ROOT / room if room in TOP_LEVEL else ROOT / "flowrl" / room
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]


def imported(file: Path) -> list[tuple[int, str]]:
    """(line, dotted name) of everything that a file imports."""
    names = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno} imports relatively"
            # `from flowrl import data` names a room as well.
            names += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return names


def test_every_file_is_in_a_room():
    inside = {
        path.stem for path in (ROOT / "flowrl").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert inside - {"__init__", "__main__"} <= MAY_IMPORT.keys()


@pytest.mark.parametrize("room", [room for room in MAY_IMPORT if any(file.exists() for file in files_of(room))])
def test_a_room_imports_what_it_may(room):
    for file in files_of(room):
        for line, name in imported(file):
            first, *rest = name.split(".")
            assert first not in {*TOP_LEVEL, "tests"}, f"{file}:{line} imports {name}: the name inside flowrl is due"
            if first == "flowrl" and rest and rest[0] in MAY_IMPORT:
                assert rest[0] in MAY_IMPORT[room] | {room}, f"{file}:{line}: {room} may not import {rest[0]}"


def test_no_test_imports_a_bare_name():
    for file in (ROOT / "tests").rglob("*.py"):
        for line, name in imported(file):
            assert name.split(".")[0] not in TOP_LEVEL, f"{file}:{line} imports {name}"
