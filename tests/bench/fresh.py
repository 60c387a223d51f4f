"""Measurements in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any


def in_fresh_process(module: str, *arguments: object) -> dict[str, Any]:
    """Run ``python -m MODULE --one ARGUMENTS``; gives the JSON in its last line.

    Raises:
        SystemExit: It failed; the text is the end of its standard error.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, "--one", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{module} {arguments}: {done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
