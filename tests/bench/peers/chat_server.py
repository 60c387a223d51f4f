"""The product's language model behind an OpenAI-compatible address, for peers that want one.

    python tests/bench/peers/chat_server.py [--port 8123] [--batch 16]

``/v1/chat/completions`` answers greedily, up to ``max_tokens``. Requests that wait at once become one
batch of `TransformersBackend`, as under the product. ``logprobs`` gives the mean log-probability of
the answer for its one piece. ``/v1/models`` also tells prompts and processor seconds so far.
"""

from __future__ import annotations

import argparse
import json
import math
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from meld_duckdb import models
from meld_duckdb.engine.transformers import TransformersBackend
from meld_duckdb.settings import DEFAULT_MODEL, default_model_dir
from meld_duckdb.tasks.base import Completion, Prompt

MOST_TOKENS = 64
"""Bound on an answer: one that has not ended by then is no True or False."""
_GATHER_S = 0.01


class Worker:
    """Takes prompts from all requests and answers them in batches."""

    def __init__(self, batch: int) -> None:
        path = models.locate(DEFAULT_MODEL, default_model_dir(), "language model")
        self.backend = TransformersBackend(path, device="cpu", batch_size=batch)
        self.asked: queue.Queue[tuple[Prompt, queue.Queue[Completion]]] = queue.Queue()
        self.batch = batch
        self.prompts = 0
        threading.Thread(target=self._run, daemon=True).start()

    def ask(self, prompt: Prompt) -> Completion:
        """Wait for the answer to a prompt."""
        reply: queue.Queue[Completion] = queue.Queue()
        self.asked.put((prompt, reply))
        return reply.get()

    def _run(self) -> None:
        while True:
            waiting = [self.asked.get()]
            time.sleep(_GATHER_S)
            while len(waiting) < self.batch and not self.asked.empty():
                waiting.append(self.asked.get())
            self.prompts += len(waiting)
            for part in self.backend.complete([prompt for prompt, _ in waiting]):
                for at, completion in part:
                    waiting[at][1].put(completion)


def to_prompt(body: Mapping[str, Any]) -> Prompt:
    """Read the messages of a request: system, turns, question."""
    parts = [(m["role"], _text(m["content"])) for m in body["messages"]]
    system = "\n".join(text for role, text in parts if role == "system")
    said = [text for role, text in parts if role != "system"]
    turns = tuple(zip(said[:-1:2], said[1::2], strict=True))
    limit = body.get("max_tokens") or body.get("max_completion_tokens") or MOST_TOKENS
    return Prompt(system, turns, said[-1], max_tokens=min(int(limit), MOST_TOKENS))


def _text(content: str | Sequence[Mapping[str, Any]]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(str(part["text"]) for part in content if part["type"] == "text")


def reply(body: Mapping[str, Any], found: Completion) -> dict[str, Any]:
    """A reply in the form of the interface."""
    text = found.text or ""
    choice: dict[str, Any] = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": "stop",
    }
    if body.get("logprobs"):
        mean = math.log(max(found.probability or 0.0, 1e-9))
        piece = {"token": text, "logprob": mean, "bytes": None, "top_logprobs": []}
        choice["logprobs"] = {"content": [piece]}
    used = {"prompt_tokens": found.prompt_tokens, "completion_tokens": len(text.split())}
    return {
        "id": "chat",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": body.get("model", DEFAULT_MODEL),
        "choices": [choice],
        "usage": {**used, "total_tokens": sum(used.values())},
    }


def serve(port: int, batch: int) -> None:
    """Listen on this machine until the process is ended."""
    worker = Worker(batch)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if not self.path.endswith("/chat/completions"):
                self._send(404, {"error": {"message": f"no such path: {self.path}"}})
                return
            found = worker.ask(to_prompt(body))
            if found.error:
                self._send(400, {"error": {"message": found.error}})
            else:
                self._send(200, reply(body, found))

        def do_GET(self) -> None:
            told: dict[str, Any] = {"data": [{"id": DEFAULT_MODEL}], "prompts": worker.prompts}
            told["processor_s"] = time.process_time()
            self._send(200, told)

        def _send(self, status: int, content: Mapping[str, Any]) -> None:
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *arguments: object) -> None:
            """Say nothing of single requests."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=8123)
    parser.add_argument("--batch", type=int, default=16)
    given = parser.parse_args()
    serve(given.port, given.batch)
