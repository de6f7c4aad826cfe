"""How every script starts: parse the command line, run, and say a user's mistake in one sentence."""

import ctypes
import difflib
import io
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import is_dataclass
from itertools import dropwhile, takewhile
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import tyro

from flowrl.errors import InputError
from flowrl.training import distributed
from flowrl.training.loop import Stopped

Args = TypeVar("Args")

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of <malloc.h>

# `--run-dir`, not `--training.run-dir`: the option names are flat, as the field writes them.
FLAT = (tyro.conf.OmitArgPrefixes,)


def warn(*sentences: str) -> None:
    """Say what is allowed and probably not meant."""
    sys.stdout.flush()  # it stands after what was printed before it, also where both go to one file
    for sentence in sentences:
        print(f"warning: {sentence}", file=sys.stderr)


def parse(args_type: type[Args], argv: Sequence[str], default: Args | None = None, *, after: str = "") -> Args:
    """Parse `argv` into `args_type`; an option that does not exist is an `InputError` naming the nearest.

    Args:
        default: gives the default of every field.
        after: a word of the command line that stands before `argv`, for the usage line.
    """
    preset: Any = tyro.MISSING_NONPROP if default is None else default
    prog = f"python -m scripts.{Path(sys.argv[0]).stem} {after}".rstrip()
    complaint = io.StringIO()
    try:
        with redirect_stderr(complaint):
            args, unknown = tyro.cli(
                args_type, prog=prog, args=list(argv), return_unknown_args=True, config=FLAT, default=preset
            )
    except ValueError as error:  # what a configuration's __post_init__ refuses
        raise InputError(str(error)) from error
    except SystemExit as end:
        if not end.code:
            raise
        raise InputError(_unboxed(complaint.getvalue())) from None
    for word in unknown:
        if word.startswith("-"):
            raise InputError(f"unknown option {word}{_nearest(word, args)} (--help lists all)")
    if unknown:
        raise InputError(f"unexpected argument {' '.join(unknown)!r} (--help says what is taken)")
    return args


def run(start: Callable[[list[str]], None], *, parallel: bool = False) -> None:
    """Call `start(argv)`; a user's mistake or a full disk ends in one sentence on stderr and exit code 2.

    Args:
        parallel: torchrun may start it in several processes.
    """
    keep_freed_memory()
    try:
        if distributed.world_size() > 1 and not parallel:
            raise InputError("torchrun can start scripts.train alone: start this script with python -m")
        start(sys.argv[1:])
    except InputError as error:
        sys.exit(_fail(str(error), code=2))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        sys.exit(_fail(f"{where}{error.strerror or error}", code=2))
    except Stopped as stopped:
        sys.exit(_fail(f"{stopped}; the same command goes on from there", code=128 + stopped.signum))
    except KeyboardInterrupt:
        sys.exit(_fail("interrupted", code=130))
    if distributed.world_size() > 1:
        # All is written and closed. Python's own way out is skipped: while it ends, a thread of torch.distributed that
        # still wants its lock is unwound, and now and then that aborts the process ("terminate called without an
        # active exception"), which torchrun takes for a failure of all.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def command(name: str) -> str:
    """The command line that started this script, as it can be typed again."""
    return f"python -m scripts.{name} {shlex.join(sys.argv[1:])}".rstrip()


def keep_freed_memory() -> None:
    """Have glibc keep freed blocks of up to 32 MiB for the next step; other C libraries are left as they are.

    By default it gives the larger ones back, and the next step faults the same memory in again page by page
    (docs/performance.md says what that costs).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 32 * 2**20)
        mallopt(_M_TRIM_THRESHOLD, 2**30)


def _fail(message: str, code: int) -> int:
    if distributed.rank():
        if code != 2:  # a signal, which all have
            return code
        # torchrun ends all processes once one has failed. So rank 0 speaks first, and alone if it has failed too.
        time.sleep(10)
    print(f"error: {message}", file=sys.stderr)
    return code


def _unboxed(box: str) -> str:
    """The sentence inside tyro's box: between its title and the next rule, without the frame."""
    lines = [line.strip("│ ") for line in box.splitlines()[1:]]  # the first one bears the title
    said = dropwhile(_is_rule, lines)  # on a terminal without Unicode a rule stands below the title
    return " ".join(takewhile(lambda line: not _is_rule(line), said)) + " (--help lists all options)"


def _is_rule(line: str) -> bool:
    return set(line) <= set("─-╰╯")


def _nearest(word: str, args: object) -> str:
    close = difflib.get_close_matches(word.split("=")[0], _options(args), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _options(args: object) -> list[str]:
    """Every `--option` of a (nested) dataclass, flat."""
    found = []
    for name, hint in get_type_hints(type(args), include_extras=True).items():
        value = getattr(args, name)
        marks = getattr(hint, "__metadata__", ())
        if is_dataclass(value):
            found += _options(value)
        elif tyro.conf.Positional not in marks and tyro.conf.Suppress not in marks:
            found.append("--" + name.replace("_", "-"))
    return found
