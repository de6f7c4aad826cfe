"""The rooms import each other in one direction only, and the wheel holds one of them."""

import ast
import tomllib

import pytest

MAY_IMPORT = {"flowrl": set(), "agents": {"flowrl"}, "envs": set(), "scripts": {"flowrl", "agents", "envs"}}


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_what_it_may(room, repository):
    files = list((repository / room).rglob("*.py"))
    assert files
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{file}:{node.lineno} imports relatively"
                names = [node.module]
            ours = {name.split(".")[0] for name in names} & {*MAY_IMPORT, "tests"}
            assert ours <= MAY_IMPORT[room] | {room}, f"{file}:{node.lineno}"


def test_the_wheel_holds_the_library_alone(repository):
    project = tomllib.loads((repository / "pyproject.toml").read_text())
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"] == {"packages": ["flowrl"]}
    assert all((repository / room / "__init__.py").exists() for room in MAY_IMPORT)
