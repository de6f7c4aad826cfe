"""Printing where the console, the pipe or the file behind it cannot take everything."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def any_encoding() -> Iterator[None]:
    """Inside, stdout and stderr print a question mark for what their encoding lacks; it is a decorator as well.

    Windows writes cp1252 into pipes and files, which has no arrows and few Greek letters.
    """
    streams = [stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, io.TextIOWrapper)]
    before = [stream.errors for stream in streams]
    for stream in streams:
        _set_errors(stream, "replace")
    try:
        yield
    finally:
        for stream, errors in zip(streams, before, strict=True):
            _set_errors(stream, errors or "strict")


def _set_errors(stream: io.TextIOWrapper, errors: str) -> None:
    with suppress(OSError, ValueError):  # it is closed, or what waits in it cannot be written
        stream.reconfigure(errors=errors)


def flush() -> None:
    """Write what was printed to stdout.

    Raises:
        OSError: the disk is full, or nobody reads; what could not be written is dropped, so that it is said once.
    """
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise
