"""The command ``meld`` on scripted models, in a process that faults may happen to.

    python -m tests.faults.scripted_meld sql "SELECT ..." --workspace DIR

What goes wrong is told by variables, all optional:

- ``MELD_TEST_SLEEP``: seconds that a prompt takes.
- ``MELD_TEST_ROW_SLEEP``: seconds that a text takes to be embedded.
- ``MELD_TEST_BREAK``: the engine raises this, by name, on a prompt with the word ``break-engine``.
- ``MELD_TEST_FILE_BYTES``: no file grows beyond so many bytes.
- ``MELD_TEST_MEMORY_BYTES``: the process gets so much address space beyond what it has once
  everything is imported.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable

from meld_duckdb.cli.main import main
from meld_duckdb.planner import loaded
from meld_duckdb.tasks.base import Completion, Prompt
from tests.daemon import serve_scripted
from tests.scripted import HashingEncoder

ROW_SLEEP_S = float(os.environ.get("MELD_TEST_ROW_SLEEP", "0"))


class OutOfMemoryError(RuntimeError):
    """What PyTorch raises, by the same name, where a device has no memory left."""


FAULTS: dict[str, Callable[[], Exception]] = {
    "device": lambda: OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "host": lambda: RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to ..."),
    "python": MemoryError,
    "defect": lambda: KeyError("layers.0"),
    "file": lambda: OSError(5, "Input/output error"),
}


class SlowEncoder(HashingEncoder):
    """Takes its time for every text."""

    def encode(self, texts):  # type: ignore[no-untyped-def]
        time.sleep(ROW_SLEEP_S * len(texts))
        return super().encode(texts)


def script(prompt: Prompt) -> Completion:
    """Answer as the scripted engine does, unless the prompt asks for a fault."""
    if "break-engine" in prompt.question:
        raise FAULTS[os.environ["MELD_TEST_BREAK"]]()
    return answer(prompt)


def limit() -> None:
    """Take away what the variables say."""
    n_bytes = int(os.environ.get("MELD_TEST_FILE_BYTES", "0"))
    if n_bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))
    n_bytes = int(os.environ.get("MELD_TEST_MEMORY_BYTES", "0"))
    if n_bytes:
        import lancedb  # noqa: F401

        with open("/proc/self/statm", encoding="ascii") as file:
            n_bytes += int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (n_bytes, n_bytes))


if __name__ == "__main__":
    answer, serve_scripted.script = serve_scripted.script, script
    serve_scripted.patch()
    loaded.Encoder = lambda *given, **options: SlowEncoder()  # type: ignore[assignment,misc]
    limit()
    main()
