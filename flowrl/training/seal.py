"""A digest over every byte of a zip archive, in the archive's comment: any program reads the archive as ever."""

import hashlib
from io import BytesIO

_END, _END_SIZE = b"PK\x05\x06", 22  # the record that ends an archive; its last two bytes count those of the comment
_WORDS, _DIGITS = b"flowrl blake2b ", 64


def seal(archive: BytesIO) -> None:
    """Append the digest to an archive that has no comment.

    Raises:
        ValueError: it is no archive, or has one.
    """
    if not _is_plain(bytes(archive.getbuffer()[-_END_SIZE:])):
        raise ValueError("only a zip archive without a comment can be sealed")
    archive.seek(-2, 2)
    archive.write((len(_WORDS) + _DIGITS).to_bytes(2, "little") + _WORDS)
    archive.write(_digest(archive.getbuffer()))


def is_sealed(content: bytes) -> bool:
    """Whether an archive has a seal; without one it is of an earlier flowrl, or of another program.

    Raises:
        ValueError: a byte of it was changed or is missing.
    """
    if _is_plain(content[-_END_SIZE:]):
        return False
    view = memoryview(content)
    if _digest(view[:-_DIGITS]) != view[-_DIGITS:]:
        raise ValueError("its checksum does not fit its contents")
    return True


def _is_plain(end: bytes) -> bool:
    return len(end) == _END_SIZE and end.startswith(_END) and end.endswith(b"\0\0")


def _digest(content: memoryview) -> bytes:
    return hashlib.blake2b(content, digest_size=_DIGITS // 2).hexdigest().encode()
