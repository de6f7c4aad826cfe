"""A hook of the documentation site: `{{help NAME ...}}` in a page becomes what `flowrl NAME ... --help` prints."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PLACE = re.compile(r"^\{\{help ?([^}]*)\}\}$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs for every page."""
    return PLACE.sub(lambda match: f"```text\n{help_of(match[1].split())}\n```", markdown)


def help_of(words: list[str]) -> str:
    """What the command line says of a command, for a terminal of 90 columns without colours.

    Raises:
        RuntimeError: there is no such command.
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "90", "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8"}
    program = [sys.executable, "-m", "flowrl", *words, "--help"]
    ended = subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True, encoding="utf-8")
    if ended.returncode:
        raise RuntimeError(f"flowrl {' '.join(words)} --help failed: {ended.stderr}")
    return "\n".join(line.rstrip() for line in ended.stdout.strip().splitlines())
