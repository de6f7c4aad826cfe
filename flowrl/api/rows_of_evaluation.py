"""Where the rows of an evaluation go: into the run's folder or, where that cannot be written to, beside the report."""

import errno
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from flowrl.errors import InputError
from flowrl.training.rows import EVALUATIONS
from flowrl.training.run_folder import RunFolder

CANNOT_WRITE = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextmanager
def rows_of(run: RunFolder, out: Path | None) -> Iterator[Path]:
    """The file for a run's rows. Inside, no other process writes into a run folder that it is in.

    A run folder that cannot be written to, such as somebody else's, is only read: then the file is
    `out`/NAME/evaluations.jsonl with the name of the run folder.

    Raises:
        InputError: another process owns the run folder; or it cannot be written to and there is no `out`.
    """
    file = run.path / EVALUATIONS
    with ExitStack() as held:
        try:
            held.enter_context(run.locked())
            run.rows(EVALUATIONS)  # it may be a pipe, which waits for a reader
            with open(file, "ab"):  # whether it can be written to is known before anything is played
                pass
        except OSError as error:
            if error.errno not in CANNOT_WRITE:
                raise
            held.close()
            if out is None:
                raise InputError(
                    f"run folder {run.path} cannot be written to: choose a folder for the rows and a report (out)"
                ) from error
            file = out / run.path.resolve().name / EVALUATIONS
        yield file
