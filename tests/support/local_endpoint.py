"""A server of OpenAI's chat completions with a small model on this machine's processor: a real endpoint to try.

    python tests/support/local_endpoint.py --port 8000 [--model demo] [--most-tokens 48] [--guided]

Greedy, one request at a time, and no more tokens an answer than it was started with; it serves 127.0.0.1 alone. The
demo's model is too small to judge anything: it shows that the way to a server works, and what answers at chance give.
Free, it continues the texts and gives no answer that can be read. Guided, as servers with a grammar do it, it writes
the form of the example's answer, and the model decides what stands in it: the words, or each number of an array.
"""

import argparse
import copy
import json
import re
import sys
import threading
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

    def __init__(self, port: int, model: str, most_tokens: int, guided: bool) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        folder = model_folder(ModelSettings(path=model)).path
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.most_tokens, self.guided = most_tokens, guided
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
        with self.lock, torch.inference_mode():
            tokens = prompt["input_ids"][0].tolist()
            n_same, cache = self._known(tokens)
            example = re.search(r"^Answer: (.*)$", messages[0]["content"], re.MULTILINE)
            if self.guided and example:
                made = self._guided(tokens, n_same, cache, example[1], limit)
            else:
                made = self._free(tokens, cache, limit)
            self.kept = [*self.kept[-3:], ([*tokens, *made[:-1]], cache)]
            self.n_requests += 1
        n_made = len(made)
        text = self.tokenizer.decode(made, skip_special_tokens=True)
        took = f"{n_prompt} ({n_same} known) + {n_made} tokens"
        print(f"{self.n_requests}: {took}: {text[:60]!r}", flush=True)
        finish = "length" if n_made == limit else "stop"
        return {
            "id": "local",
            "object": "chat.completion",
            "model": body["model"],
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}],
            "usage": {"prompt_tokens": n_prompt, "completion_tokens": n_made, "total_tokens": n_prompt + n_made},
        }

    def _free(self, tokens: list[int], cache: Any, limit: int) -> list[int]:
        made = self.model.generate(
            torch.tensor([tokens]), past_key_values=cache, max_new_tokens=limit, do_sample=False, use_cache=True
        )
        return made[0, len(tokens) :].tolist()

    def _guided(self, tokens: list[int], n_same: int, cache: Any, example: str, limit: int) -> list[int]:
        """The example's answer with the model's own numbers; or the words before its colon, and the model's own."""
        if not example.startswith("["):
            begin = self._encoded(example.partition(":")[0] + ":")
            return [*begin, *self._free([*tokens, *begin], cache, limit - len(begin))]
        numbers = json.loads(example)
        allowed = [self._encoded(str(n))[0] for n in ((1, 2, 3, 4, 5) if len(numbers) == 1 else (0, 1))]
        made = self._encoded("[")
        logits = self.model(torch.tensor([[*tokens[n_same:], *made]]), past_key_values=cache, use_cache=True).logits
        for place in range(len(numbers)):
            chosen = allowed[int(logits[0, -1, allowed].argmax())]
            step = [chosen, *self._encoded(", " if place + 1 < len(numbers) else "]")]
            made = [*made, *step]
            logits = self.model(torch.tensor([step]), past_key_values=cache, use_cache=True).logits
        return [*made, self.tokenizer.eos_token_id]

    def _encoded(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))

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
    parser.add_argument("--guided", action="store_true")
    given = parser.parse_args()
    with Local(given.port, given.model, given.most_tokens, given.guided) as server:
        print(f"http://127.0.0.1:{given.port}/v1", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
