"""What Windows lacks is not needed, and no text depends on the machine's own encoding."""

import ast
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted(file for room in ("flowrl", "agents", "envs", "scripts") for file in (ROOT / room).rglob("*.py"))
TEXT_CALLS = {"read_text": 0, "write_text": 1, "open": None}

# In a process of its own: modules and names that Windows has not are taken away, then all of flowrl is imported, and a
# dataset is collected, a run trained, evaluated and read.
WITHOUT = """
import importlib, multiprocessing, os, pathlib, pkgutil, signal, sys, tempfile
import filelock, gymnasium, imageio.v3, matplotlib.pyplot, minari, rich.console, torch.utils.tensorboard, tyro

for module in ("resource", "fcntl", "grp", "pwd", "termios", "pty", "multiprocessing.forkserver"):
    sys.modules[module] = None
for name in ("fork", "forkpty", "setpgid", "getpgid", "killpg", "setsid", "getuid", "geteuid", "uname", "mkfifo",
             "sched_getaffinity", "posix_fallocate", "O_DIRECTORY", "O_NOFOLLOW", "pread", "sysconf"):
    vars(os).pop(name, None)
for name in ("SIGKILL", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGCHLD", "alarm", "pthread_sigmask", "setitimer"):
    vars(signal).pop(name, None)
multiprocessing.get_all_start_methods = lambda: ["spawn"]
exists = pathlib.Path.exists
pathlib.Path.exists = lambda self, **how: not str(self).startswith("/proc") and exists(self, **how)

import flowrl
for module in pkgutil.walk_packages(flowrl.__path__, "flowrl."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
from flowrl.experiments.processes import Processes
from flowrl.scripts import cli, collect
Processes()
collect.start(["flowrl/reach/mixed-v0", "--steps", "200"])
run = flowrl.train("bc", dataset="flowrl/reach/mixed-v0", run_dir="run", steps=4, batch_size=8, width=16, episodes=1)
flowrl.evaluate(run, episodes=1)
sys.argv = ["flowrl", "inspect", "flowrl/reach/mixed-v0", "--out", "looked"]
cli.main()
print("all done")
"""


def encodes(call: ast.Call) -> bool:
    """Whether a call that reads or writes a file names an encoding, or bytes."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name not in TEXT_CALLS or any(word.arg in ("encoding", None) for word in call.keywords):
        return True
    if name != "open":
        return len(call.args) > TEXT_CALLS[name]
    owner = call.func.value if isinstance(call.func, ast.Attribute) else None
    if owner is not None and ast.unparse(owner) in ("os", "Image", "h5py.h5a", "h5py.h5d", "h5py.h5g", "webbrowser"):
        return True
    if ast.unparse(call).startswith("file.open(member"):  # of a zip file, always bytes
        return True
    words = [*call.args, *(word.value for word in call.keywords if word.arg == "mode")]
    modes = [word.value for word in words if isinstance(word, ast.Constant) and isinstance(word.value, str)]
    return any("b" in mode and len(mode) <= 3 for mode in modes)


@pytest.mark.parametrize(
    ("line", "right"),
    [
        ("path.read_text()", False),
        ("path.read_text('utf-8')", True),
        ("path.write_text(text)", False),
        ("path.write_text(text, encoding='utf-8')", True),
        ("open(path)", False),
        ("open(path, 'w')", False),
        ("open(path, 'rb+')", True),
        ("path.open(mode='ab')", True),
        ("path.open()", False),
        ("os.open(path, flags)", True),
    ],
)
def test_the_check_of_encodings_sees_what_it_is_for(line, right):
    assert encodes(ast.parse(line, mode="eval").body) == right


def test_every_text_file_is_opened_with_an_encoding():
    assert len(SOURCES) > 150
    wrong = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for file in SOURCES
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and not encodes(node)
    ]
    assert not wrong


@pytest.mark.slow
def test_it_runs_without_what_windows_lacks(tmp_path, minari_root):
    environment = os.environ | {
        "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0", "MPLBACKEND": "agg",
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        encoding="cp1252",
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("all done")


def test_the_end_of_a_killed_process_is_named(monkeypatch):
    from flowrl.experiments.processes import _last_words

    assert "SIGKILL, as the system does when memory runs out" in _last_words(-9)
    assert _last_words(-signal.SIGTERM) == "its process was killed by SIGTERM"
    assert "signal 35" in _last_words(-35)
    monkeypatch.delattr(signal, "SIGKILL")
    assert "SIGTERM" in _last_words(-15)
