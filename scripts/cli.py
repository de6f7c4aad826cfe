"""How every script starts: parse the command line, run, and say a user's mistake in one sentence."""

import ast
import ctypes
import difflib
import importlib
import importlib.util
import io
import pkgutil
import re
import shlex
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import is_dataclass
from itertools import dropwhile, takewhile
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import tyro

import flowrl
import flowrl.scripts
from flowrl.errors import InputError
from flowrl.scripts.console.described import registry
from flowrl.scripts.console.own_modules import prefer_own_modules
from flowrl.scripts.console.suggestions import nearest
from flowrl.streams import any_encoding, flush
from flowrl.text import printable
from flowrl.training import distributed
from flowrl.training.loop import Stopped

# Here, and not where a script starts: a process that is spawned for an environment imports the main program again.
prefer_own_modules()

Args = TypeVar("Args")

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of <malloc.h>

# It stands for a byte of a file's name that is no UTF-8: such a name can be opened, but not be written into a text.
_SURROGATE = re.compile("[\ud800-\udfff]")

# `--run-dir`, not `--training.run-dir`: the option names are flat, as the field writes them.
FLAT = (tyro.conf.OmitArgPrefixes,)


def parse(args_type: type[Args], argv: Sequence[str], default: Args | None = None, *, after: str = "") -> Args:
    """Parse `argv` into `args_type`; an option that does not exist is an `InputError` naming the nearest.

    Args:
        default: gives the default of every field.
        after: a word of the command line that stands before `argv`, for the usage line.
    """
    preset: Any = tyro.MISSING_NONPROP if default is None else default
    prog = f"{program()} {after}".rstrip()
    complaint = io.StringIO()
    try:
        with redirect_stderr(complaint), registry():
            args, unknown = tyro.cli(
                args_type, prog=prog, args=list(argv), return_unknown_args=True, config=FLAT, default=preset
            )
    except ValueError as error:  # what a configuration's __post_init__ refuses
        raise InputError(str(error)) from error
    except SystemExit as end:
        if not end.code:
            if {"-h", "--help"} & set(argv):
                print(examples(sys.modules[args_type.__module__].__doc__))
            raise
        raise InputError(_unboxed(complaint.getvalue())) from None
    for word in unknown:
        if word.startswith("-"):
            near = nearest(word, _options(args))
            hint = f"; did you mean {near}?" if near else ""
            raise InputError(f"unknown option {word}{hint} (--help lists all)")
    if unknown:
        raise InputError(f"unexpected argument {' '.join(unknown)!r} (--help says what is taken)")
    return args


@any_encoding()
def run(start: Callable[[list[str]], None], *, parallel: bool = False) -> None:
    """Call `start(argv)`; a user's mistake or a full disk ends in one sentence on stderr and exit code 2.

    Args:
        parallel: torchrun may start it in several processes.
    """
    keep_freed_memory()
    threading.excepthook = _note_thread
    try:
        if word := next(filter(_SURROGATE.search, sys.argv), None):
            raise InputError(_no_text(word))
        if distributed.world_size() > 1 and not parallel:
            raise InputError("torchrun can only start a training: start this script without it")
        try:
            start(sys.argv[1:])
        except SystemExit:  # of --help
            flush()
            raise
        flush()
    except InputError as error:
        sys.exit(_fail(str(error), code=2))
    except UnicodeEncodeError as error:
        if not _SURROGATE.search(error.object):
            raise
        sys.exit(_fail(_no_text(error.object), code=2))
    except OSError as error:
        with suppress(OSError):
            flush()
        where = f"{error.filename}: " if error.filename else ""
        sys.exit(_fail(f"{where}{error.strerror or error}", code=2))
    except Stopped as stopped:
        sys.exit(_fail(f"{stopped}; the same command goes on from there", code=128 + stopped.signum))
    except KeyboardInterrupt:
        sys.exit(_fail("interrupted", code=130))
    distributed.leave()


def command() -> str:
    """The command line that started this script, as it can be typed again."""
    return f"{program()} {shlex.join(sys.argv[1:])}".rstrip()


def program() -> str:
    """How this script was started: ``flowrl train``, or ``python -m scripts.train``."""
    return sys.argv[0] if sys.argv[0].startswith("flowrl ") else f"python -m scripts.{Path(sys.argv[0]).stem}"


def typed(name: str) -> str:
    """How another script is started in the way this one was: ``flowrl NAME`` or ``python -m scripts.NAME``."""
    return f"flowrl {name}" if program().startswith("flowrl ") else f"python -m scripts.{name.replace('-', '_')}"


def examples(docstring: str | None) -> str:
    """The paragraph of command lines in a script's docstring, as they are typed here; empty if there is none."""
    paragraphs = [textwrap.dedent(text) for text in (docstring or "").split("\n\n")]
    lines = [line for text in paragraphs if text.startswith("flowrl ") for line in text.rstrip().splitlines()]
    shown = [re.sub(r"^flowrl ([a-z0-9-]+)", lambda match: typed(match[1]), line) for line in lines]
    return "\n".join(["examples:", *(f"  {line}" for line in shown)]) if shown else ""


@any_encoding()
def main() -> None:
    """``flowrl COMMAND ...``: start the script of that name."""
    modules = [info for info in pkgutil.iter_modules(flowrl.scripts.__path__) if not info.ispkg and info.name != "cli"]
    commands = {name: name.replace("_", "-") for name in sorted(info.name for info in modules)}
    word = sys.argv[1] if len(sys.argv) > 1 else "--help"
    name = word.replace("-", "_")
    if word in ("-h", "--help"):
        run(lambda argv: _print_commands(commands))
        sys.exit(0 if len(sys.argv) > 1 else 2)
    if word == "--version":
        print(f"flowrl {flowrl.__version__}")
        sys.exit(0)
    if name not in commands:
        near = difflib.get_close_matches(word, commands.values(), n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        sys.exit(_fail(f"unknown command {word!r}: {hint}known are {', '.join(commands.values())}", code=2))
    if str(Path.cwd()) not in sys.path:  # `module:Name` names a file there, as with `python -m flowrl`
        sys.path.append(str(Path.cwd()))
    module = importlib.import_module(f"flowrl.scripts.{name}")
    sys.argv = [f"flowrl {word}", *sys.argv[2:]]
    run(module.start, parallel=name == "train")


def _print_commands(commands: Mapping[str, str]) -> None:
    print("flowrl COMMAND ...\n\ncommands (`flowrl COMMAND --help` lists the options of one):")
    for name, written in commands.items():
        spec = importlib.util.find_spec(f"flowrl.scripts.{name}")
        source = Path(spec.origin).read_text(encoding="utf-8") if spec and spec.origin else ""
        print(f"  {written:<20} {(ast.get_docstring(ast.parse(source)) or '').splitlines()[0]}")


def keep_freed_memory() -> None:
    """Have glibc keep freed blocks of up to 32 MiB for the next step; other C libraries are left as they are.

    By default it gives the larger ones back, and the next step faults the same memory in again page by page
    (docs/dev/performance.md says what that costs).
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
    with suppress(OSError):  # stderr may go to a disk that is full
        print(printable(f"error: {message}"), file=sys.stderr)
    return code


def _note_thread(died: threading.ExceptHookArgs) -> None:
    """A thread's traceback, but not TensorBoard's at a full disk, who hands its error to the main thread."""
    if not (isinstance(died.exc_value, OSError) and type(died.thread).__module__.startswith("tensorboard.")):
        threading.__excepthook__(died)


def _no_text(text: str) -> str:
    words = re.findall(rf"[^\s<>]*{_SURROGATE.pattern}[^\s<>]*", text)  # of a whole page, as the text may be
    return f"{words[0]!a} has bytes that are no UTF-8, so it cannot be written down: rename that file or folder"


def _unboxed(box: str) -> str:
    """The sentence inside tyro's box: between its title and the next rule, without the frame."""
    lines = [line.strip("│ ") for line in box.splitlines()[1:]]  # the first one bears the title
    body = dropwhile(_is_rule, lines)  # on a terminal without Unicode a rule stands below the title
    sentence = " ".join(takewhile(lambda line: not _is_rule(line), body))
    refused = re.fullmatch(r"Error parsing [a-z_.]+: (.*)", sentence)  # by a nested configuration, which says all
    return refused[1] if refused else f"{sentence} (--help lists all options)"


def _is_rule(line: str) -> bool:
    return set(line) <= set("─-╰╯")


def _options(args: object) -> list[str]:
    """Every `--option` of a (nested) dataclass, flat."""
    options = []
    for name, hint in get_type_hints(type(args), include_extras=True).items():
        value = getattr(args, name)
        marks = getattr(hint, "__metadata__", ())
        if is_dataclass(value):
            options += _options(value)
        elif tyro.conf.Positional not in marks and tyro.conf.Suppress not in marks:
            options.append("--" + name.replace("_", "-"))
    return options
