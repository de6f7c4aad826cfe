"""A call in a forked process, which may be killed, run out of disk or die: what became of it."""

import json
import os
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flowrl.errors import InputError


@dataclass(frozen=True)
class Outcome:
    """How a child ended."""

    code: int | None  # exit code; None where a signal ended it
    signum: int | None
    answer: Any  # what the call returned, a plain value; None where it did not return
    said: str  # all that it wrote to stdout and stderr

    @property
    def refused(self) -> bool:
        """Whether it ended in one sentence, as a user's mistake or a fault of the machine does."""
        return self.code == 2 and "Traceback" not in self.said


def in_child(
    call: Callable[[], Any],
    *,
    kill_after: float | None = None,
    signum: int = signal.SIGKILL,
    largest_file: int | None = None,
    timeout: float = 120.0,
) -> Outcome:
    """Call a function in a forked process.

    Args:
        call: returns a plain value; an `InputError` is written and ends the process with code 2, as the scripts do.
        kill_after: seconds until the signal is sent; None sends none.
        largest_file: bytes that a file may have, as on a full disk; None for no limit.
        timeout: seconds until the process is killed because it hangs.
    """
    (answer, answering), (said, saying) = os.pipe(), os.pipe()
    if (child := os.fork()) == 0:
        os.close(answer)
        os.close(said)
        _run(call, answering, saying, largest_file)
    os.close(answering)
    os.close(saying)
    began = time.monotonic()
    texts = {answer: b"", said: b""}
    waiting, sent = set(texts), kill_after is None
    while waiting:
        passed = time.monotonic() - began
        if not sent and kill_after is not None and passed >= kill_after:
            os.kill(child, signum)
            sent = True
        if passed >= timeout:
            os.kill(child, signal.SIGKILL)
        pause = 0.5 if sent or kill_after is None else max(0.0, kill_after - passed)
        for ready in select.select(list(waiting), [], [], pause)[0]:
            if block := os.read(ready, 65536):
                texts[ready] += block
            else:
                waiting.discard(ready)
    os.close(answer)
    os.close(said)
    status = os.waitpid(child, 0)[1]
    ended = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    return Outcome(
        None if ended else os.WEXITSTATUS(status),
        ended,
        json.loads(texts[answer]) if texts[answer] and not ended else None,
        texts[said].decode(errors="replace"),
    )


def _run(call: Callable[[], Any], answering: int, saying: int, largest_file: int | None) -> None:
    """The child's whole life."""
    code = 1
    try:
        os.dup2(saying, 1)
        os.dup2(saying, 2)
        # For as long as the process lives.
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        if largest_file is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
        answer = json.dumps(call()).encode()
        os.write(answering, answer)
        code = 0
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
