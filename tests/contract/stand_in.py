"""An OpenAI-compatible server on a real loopback socket, with a tiny model behind it."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from meld_duckdb.engine.adapters import quiet_peft

MODEL = "tiny"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StandIn

    def do_GET(self) -> None:
        self._serve(None)

    def do_POST(self) -> None:
        self._serve(json.loads(self.rfile.read(int(self.headers["content-length"]))))

    def log_message(self, *arguments: object) -> None:
        pass

    def _serve(self, body: Any) -> None:
        path = self.path.removeprefix("/v1")
        with self.server.lock:
            self.server.log.append((path, body, dict(self.headers.items())))
            failure = self.server.failures.pop(0) if self.server.failures else None
            self.server.n_open += 1
            self.server.most_open = max(self.server.most_open, self.server.n_open)
        try:
            self.server.delay.wait(self.server.delay_s)
            if failure == "hang up":
                self.close_connection = True
                return
            status, content = failure or self.server.answer(path, body)
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in self.server.headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except OSError:  # the client is gone
            self.close_connection = True
        finally:
            with self.server.lock:
                self.server.n_open -= 1


class StandIn(ThreadingHTTPServer):
    """What it can do is set by its attributes.

    Attributes:
        completions: Whether it takes token ids.
        chosen: Whether it gives log-probabilities of chosen tokens.
        tokenize: ``"own"``, ``"other"`` or ``"none"``.
        loading: Whether it loads adapters at run time.
        failures: (status, content) of the next requests, ``"hang up"``, or None for an answer.
        context: Most tokens of a prompt.
    """

    daemon_threads = True

    def __init__(self, model_path: Path, **abilities: Any) -> None:
        from transformers import AutoTokenizer

        super().__init__(("127.0.0.1", 0), Handler)
        self.completions = self.chosen = self.loading = self.logprobs = True
        self.tokenize, self.context, self.limit_name = "own", 10_000, "max_tokens"
        self.delay_s, self.delay = 0.0, threading.Event()
        self.headers: dict[str, str] = {}
        self.failures: list[Any] = []
        self.log: list[tuple[str, Any, dict[str, str]]] = []
        self.n_open = self.most_open = 0
        self.lock, self._turn = threading.Lock(), threading.Lock()
        self._path = model_path
        self._tokenizer = AutoTokenizer.from_pretrained(model_path, local_files_only=True)
        self.models: dict[str, Any] = {MODEL: self._plain()}
        for name, value in abilities.items():
            setattr(self, name, value)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def stop(self) -> None:
        self.delay.set()
        self.shutdown()
        self.server_close()

    def asked(self, path: str) -> list[Any]:
        return [body for at, body, _ in self.log if at == path]

    def answer(self, path: str, body: Any) -> tuple[int, Any]:
        if path == "/models":
            return 200, {"data": [{"id": name} for name in self.models]}
        if path == "/tokenize" and self.tokenize != "none":
            ids = self._tokenizer(body["prompt"], add_special_tokens=False)["input_ids"]
            return 200, {"tokens": ids if self.tokenize == "own" else [i + 1 for i in ids]}
        if path in {"/load_lora_adapter", "/unload_lora_adapter"} and self.loading:
            return self._adapt(path, body)
        with self._turn:
            if path == "/completions" and self.completions:
                return self._complete(body, body["prompt"])
            if path == "/chat/completions":
                return self._chat(body)
        return 404, {"error": {"message": f"there is no {path}"}}

    def _plain(self) -> Any:
        from transformers import LlamaForCausalLM

        return LlamaForCausalLM.from_pretrained(self._path, local_files_only=True).eval()

    def _adapt(self, path: str, body: Mapping[str, Any]) -> tuple[int, Any]:
        import peft

        name = body["lora_name"]
        if path.startswith("/unload"):
            found = self.models.pop(name, None)
            return (200, b"Success") if found is not None else (404, {"message": "no such adapter"})
        if name in self.models:
            return 400, {"message": f"{name} has already been loaded"}
        if not Path(body["lora_path"]).is_dir():
            return 400, {"message": f"no directory for {name}"}
        with self._turn, quiet_peft():
            self.models[name] = peft.PeftModel.from_pretrained(
                self._plain(), body["lora_path"]
            ).eval()
        return 200, b"Success: loaded"

    def _complete(self, body: Mapping[str, Any], ids: Sequence[int]) -> tuple[int, Any]:
        if body["model"] not in self.models:
            return 404, {"error": {"message": f"The model {body['model']} does not exist."}}
        if len(ids) > self.context:
            return 400, {"error": {"message": f"maximum context length is {self.context}"}}
        stops = {*body.get("stop_token_ids", []), self._tokenizer.eos_token_id}
        tokens, own, listed = self._greedy(body["model"], list(ids), body["max_tokens"], stops)
        wanted = body.get("logprob_token_ids") if self.chosen else None
        shown = wanted or listed.topk(body["logprobs"]).indices.tolist()
        spell = self._spell(bool(body.get("return_tokens_as_token_ids")) and self.chosen)
        text = self._tokenizer.decode([t for t in tokens if t not in stops])
        logprobs = {
            "tokens": [spell(token) for token in tokens],
            "token_logprobs": own,
            "top_logprobs": [{spell(token): float(listed[token]) for token in shown}],
        }
        usage = {"prompt_tokens": len(ids), "completion_tokens": len(tokens)}
        return 200, {"choices": [{"text": text, "logprobs": logprobs}], "usage": usage}

    def _chat(self, body: Mapping[str, Any]) -> tuple[int, Any]:
        if self.limit_name not in body:
            return 400, {"error": {"message": f"Use '{self.limit_name}' instead."}}
        text = self._tokenizer.apply_chat_template(
            body["messages"], tokenize=False, add_generation_prompt=True
        )
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        stops = {self._tokenizer.eos_token_id, self._tokenizer.convert_tokens_to_ids("<|im_end|>")}
        tokens, own, listed = self._greedy(body["model"], ids, body[self.limit_name], stops)
        spell = self._spell(False)
        top = listed.topk(body.get("top_logprobs", 1)).indices.tolist()
        content = [{"token": spell(t), "logprob": p} for t, p in zip(tokens, own, strict=True)]
        content[0]["top_logprobs"] = [{"token": spell(t), "logprob": float(listed[t])} for t in top]
        said = self._tokenizer.decode([t for t in tokens if t not in stops])
        choice: dict[str, Any] = {"message": {"content": said}}
        if self.logprobs:
            choice["logprobs"] = {"content": content}
        usage = {"prompt_tokens": len(ids), "completion_tokens": len(tokens)}
        return 200, {"choices": [choice], "usage": usage}

    def _spell(self, by_id: bool) -> Any:
        if by_id:
            return lambda token: f"token_id:{token}"
        return lambda token: self._tokenizer.decode([token])

    def _greedy(
        self, model: str, ids: list[int], limit: int, stops: set[int]
    ) -> tuple[list[int], list[float], Any]:
        """Tokens, their log-probabilities, and all log-probabilities at the first place."""
        import torch

        tokens: list[int] = []
        own: list[float] = []
        first = None
        while len(tokens) < limit and not (tokens and tokens[-1] in stops):
            with torch.inference_mode():
                logits = self.models[model](input_ids=torch.tensor([ids + tokens])).logits
            row = logits[0, -1].log_softmax(-1)
            first = row if first is None else first
            tokens.append(int(row.argmax()))
            own.append(float(row.max()))
        assert all(math.isfinite(logprob) for logprob in own)
        return tokens, own, first
