"""JSON that somebody else wrote: bounded in size and depth, valid text, and from plain files only.

Python's parser raises `RecursionError` for text that is nested too deeply, and takes as much memory
as a file asks for; a file that is a pipe is waited for without end. Here all of that is a
`ValueError`, like any other text that is no JSON.
"""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path
from typing import Any

_HALVES = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")
"""Where half of a surrogate pair may be: its escape (which may be one of a pair), or itself."""

MOST_BYTES = 64_000_000
"""Bytes of a file that is read: parsed, they take up to twenty times as much memory."""


def loads(text: str | bytes) -> Any:
    """Parse JSON; halves of surrogate pairs, which it may escape, become question marks.

    Raises:
        ValueError: It is none, or nested too deeply.
    """
    try:
        found = json.loads(text)
        if _HALVES.search(text if isinstance(text, str) else text.decode("utf-8", "surrogatepass")):
            mended = json.dumps(found, ensure_ascii=False).encode("utf-8", "replace")
            found = json.loads(mended)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return found


def read(path: Path, most_bytes: int = MOST_BYTES) -> Any:
    """Read a JSON file.

    Args:
        path: The file.
        most_bytes: A larger file is not read.

    Raises:
        OSError: It cannot be read.
        ValueError: It holds no JSON, is too large, or is no plain file.
    """
    # Without waiting, should it be a pipe; a plain file takes no notice.
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("it is no plain file")
        if found.st_size > most_bytes:
            raise ValueError(f"it has {found.st_size} bytes, expected at most {most_bytes}")
        return loads(file.read())
