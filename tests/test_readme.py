"""The README shows the commands that the Makefile runs."""

from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_readme_shows_the_commands_of_the_demo():
    makefile = (ROOT / "Makefile").read_text().replace("\\\n\t\t", "")
    variables = {"$(BIN)": ".venv/bin", "$(DATASET)": "flowrl/hopper/medium-replay-v0"}
    readme = " ".join((ROOT / "README.md").read_text().replace("\\\n", " ").split())
    demo = makefile.partition("\ndemo:")[2].partition("\n\n")[0].splitlines()[1:]
    assert len(demo) == 2
    for line in demo:
        for name, value in variables.items():
            line = line.replace(name, value)
        assert " ".join(line.split()) in readme


def test_the_readme_has_no_gaps():
    assert "@@" not in (ROOT / "README.md").read_text()
