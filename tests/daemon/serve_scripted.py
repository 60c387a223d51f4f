"""An engine on scripted models, for tests: the product's own process with patched backends.

    python -m tests.daemon.serve_scripted --workspace DIR --ready-fd N [options of the engine]

``MELD_TEST_SLEEP`` is what a prompt costs in seconds; a prompt whose question has the word
``crash-engine`` kills the process, one with ``fail-prompt`` raises.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))

from meld_duckdb.cli import engine_process  # noqa: E402
from meld_duckdb.planner import loaded  # noqa: E402
from meld_duckdb.tasks.base import Completion, Prompt  # noqa: E402
from tests.scripted import HashingEncoder, ScriptedBackend, first_choice  # noqa: E402

SLEEP_S = float(os.environ.get("MELD_TEST_SLEEP", "0"))


def script(prompt: Prompt) -> Completion:
    if "crash-engine" in prompt.question:
        os.kill(os.getpid(), signal.SIGKILL)
    if "fail-prompt" in prompt.question:
        raise ValueError("this prompt fails")
    if SLEEP_S:
        time.sleep(SLEEP_S)
    return first_choice(prompt)


class ForgetfulBackend(ScriptedBackend):
    """Does not keep what it was asked, so that its memory stays flat."""

    def complete(self, prompts, adapter=None):  # type: ignore[no-untyped-def]
        for part in super().complete(prompts, adapter):
            self.asked.clear()
            self.adapters.clear()
            yield part


def patch() -> None:
    backend = ForgetfulBackend(script, batch_size=16)
    kind = loaded.BackendKind(lambda *given: "scripted", lambda *given: backend)
    loaded.BACKENDS["transformers"] = kind
    loaded.models.locate = lambda *arguments: Path("/")  # type: ignore[assignment]
    loaded.models.model_digest = lambda path: "scripted"  # type: ignore[assignment]
    loaded.Encoder = lambda *arguments, **options: HashingEncoder()  # type: ignore[assignment,misc]


if __name__ == "__main__":
    patch()
    engine_process.main()
