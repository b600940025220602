"""A server of OpenAI's chat completions with a small model on this machine's processor: a real endpoint to try.

    python tests/support/local_endpoint.py --port 8000 [--model demo] [--most-tokens 48]

Greedy, one request at a time, and no more tokens an answer than it was started with; it serves 127.0.0.1 alone. The
demo's model is too small to judge anything: it shows that the way to a server works, and what answers at chance give.
"""

import argparse
import copy
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from strata_sae.pipeline.language_model.folder import model_folder
from strata_sae.pipeline.settings import ModelSettings


class Local(ThreadingHTTPServer):
    """Answers with a model; requests wait for each other."""

    daemon_threads = True

    def __init__(self, port: int, model: str, most_tokens: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        folder = model_folder(ModelSettings(path=model)).path
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.most_tokens = most_tokens
        self.lock = threading.Lock()
        self.n_requests = 0
        self.kept: list[tuple[list[int], Any]] = []
        """Tokens of the last conversations and their keys and values: many requests begin alike."""

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        """The body of the answer."""
        messages = [{"role": message["role"], "content": message["content"]} for message in body["messages"]]
        prompt = self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        n_prompt, limit = prompt["input_ids"].shape[1], min(self.most_tokens, int(body["max_tokens"]))
        began = time.monotonic()
        with self.lock, torch.inference_mode():
            tokens = prompt["input_ids"][0].tolist()
            n_same, cache = self._known(tokens)
            made = self.model.generate(
                **prompt, past_key_values=cache, max_new_tokens=limit, do_sample=False, use_cache=True
            )[0, n_prompt:]
            self.kept = [*self.kept[-3:], ([*tokens, *made[:-1].tolist()], cache)]
            self.n_requests += 1
        n_made = len(made)
        text = self.tokenizer.decode(made, skip_special_tokens=True)
        took = f"{n_prompt} ({n_same} known) + {n_made} tokens, {time.monotonic() - began:.1f} s"
        print(f"{self.n_requests}: {took}: {text[:60]!r}", flush=True)
        finish = "length" if n_made == limit else "stop"
        return {
            "id": "local",
            "object": "chat.completion",
            "model": body["model"],
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}],
            "usage": {"prompt_tokens": n_prompt, "completion_tokens": n_made, "total_tokens": n_prompt + n_made},
        }

    def _known(self, tokens: list[int]) -> tuple[int, Any]:
        """How many tokens at the beginning are known, and a copy of their keys and values; the last is never."""
        best, surplus, cache = 0, 0, None
        for known, values in self.kept:
            n_same = next((n for n, (a, b) in enumerate(zip(known, tokens[:-1], strict=False)) if a != b), None)
            n_same = min(len(known), len(tokens) - 1) if n_same is None else n_same
            if n_same > best:
                best, surplus, cache = n_same, len(known) - n_same, values
        if cache is None:
            return 0, DynamicCache()
        copied = copy.deepcopy(cache)
        if surplus:
            copied.crop(-surplus)
        return best, copied


class _Handler(BaseHTTPRequestHandler):
    server: Local
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        data = json.dumps(self.server.answer(body)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are printed when they are answered."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--most-tokens", type=int, default=48)
    given = parser.parse_args()
    with Local(given.port, given.model, given.most_tokens) as server:
        print(f"http://127.0.0.1:{given.port}/v1", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
