"""The documentation: pages are short and reachable, links resolve, commands parse, and the Python of the pages runs."""

import importlib
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from markdown_blocks import ROOT, anchors, blocks, commands, links

from flowrl.scripts import compare, train
from flowrl.scripts.cli import parse

DOCS = ROOT / "docs"
AT_THE_TOP = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES = [*AT_THE_TOP, *sorted(DOCS.rglob("*.md"))]
OF_THE_SITE = [page for page in PAGES if page not in AT_THE_TOP]
# Programs that pages show beside our own.
OTHERS = ("pip ", "make ", "tensorboard ", ". ")
# Blocks that show a line of a file of ours.
LINES_OF_FILES = ("ATTENTION: dict",)


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def in_navigation(entry: Any) -> Iterator[str]:
    """The pages of a part of mkdocs.yml's nav."""
    if isinstance(entry, str):
        yield entry
    else:
        for part in entry if isinstance(entry, list) else entry.values():
            yield from in_navigation(part)


def test_every_page_is_in_the_navigation_once():
    listed = list(in_navigation(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    assert sorted(listed) == sorted(str(page.relative_to(DOCS)) for page in OF_THE_SITE)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_resolve(page):
    for link in links(page):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name(page)} links to {link}"
        if page in OF_THE_SITE:
            assert target.is_relative_to(DOCS), f"{name(page)} links to {link}, which is not in the site"
        if anchor:
            assert anchor in anchors(target), f"{name(page)} links to {link}"


@pytest.mark.parametrize("page", [p for p in OF_THE_SITE if p.parent.name in ("guide", "reference")], ids=name)
def test_a_page_is_short(page):
    assert len(page.read_text().splitlines()) <= 150


def test_all_pages_and_pictures_are_small():
    assert sum(file.stat().st_size for file in DOCS.rglob("*") if file.is_file()) < 2_000_000


def shown_commands() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for language, text in blocks(page):
            for command in commands(text) if language == "bash" else ():
                yield name(page), command


def test_every_command_parses():
    parsed = 0
    for page, command in shown_commands():
        if command.startswith(OTHERS):
            continue
        before, _, after = command.partition("flowrl ")
        assert before in ("", "torchrun --nproc-per-node 2 -m "), f"{page} shows {command!r}"
        if "my_module:" not in after:  # which another test runs
            parse_command(shlex.split(after))
            parsed += 1
    assert parsed > 30


def parse_command(words: list[str]) -> None:
    """Read a command of ours as its script does; an option that does not exist raises InputError."""
    script, *rest = words
    if script == "train":
        train.parse_args(rest)
        return
    module = importlib.import_module(f"flowrl.scripts.{script.replace('-', '_')}")
    args = parse(module.Args, rest)
    if script == "compare":
        for text in args.agents:
            compare.parse_agent(text, compare.common_words(args))


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)}


def run(words: list[str], folder: Path) -> None:
    ended = subprocess.run(words, cwd=folder, env=environment(), capture_output=True, text=True)
    assert ended.returncode == 0, f"{shlex.join(words)}\n{ended.stdout}{ended.stderr}"


@pytest.mark.slow
def test_the_python_of_the_pages_runs(tiny_run, reach_dataset, tmp_path):
    (tmp_path / "runs").mkdir()
    tiny_run.rename(tmp_path / "runs/reach")
    pages = [page for page in OF_THE_SITE if page.name not in ("your-own-agent.md", "LOG.md")]
    for page in pages:
        for language, text in blocks(page):
            if language == "python" and not text.startswith(LINES_OF_FILES):
                run([sys.executable, "-c", text], tmp_path)


@pytest.mark.slow
def test_the_agent_of_the_page_trains_and_compares(tmp_path):
    shown = list(blocks(DOCS / "guide/your-own-agent.md"))
    # Its own actor and the whole agent, in one file.
    programs = [text for language, text in shown if language == "python" and not text.startswith(LINES_OF_FILES)]
    (tmp_path / "my_module.py").write_text("\n".join(programs))
    typed = [command for language, text in shown if language == "bash" for command in commands(text)]
    assert len(typed) == 4
    shorter = {"collect": [], "train": ["--episodes", "2"], "compare": ["--episodes", "2", "--no-study"]}
    for command in typed:
        program, script, *words = shlex.split(command)
        run([sys.executable, "-m", program, script, *words, *shorter[script]], tmp_path)


def test_the_command_line_page_has_every_command():
    scripts = {file.stem.replace("_", "-") for file in (ROOT / "scripts").glob("*.py")} - {"--init--", "cli"}
    page = (DOCS / "reference/command-line.md").read_text()
    assert {script for script in scripts if f"{{{{help {script}}}}}" not in page} == set()
