"""A tiny project that works (model, corpora, store, run), and the command line called on it in this process."""

import hashlib
import json
import logging
import os
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from typer.testing import CliRunner

from strata_sae.pipeline.commands.app import app
from support.tiny_models import save_tiny_model

HANG_SECONDS = 600
"""A case that takes longer does not end: a guard against hanging, no measure of speed."""
SITES = ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]


class NoEnd(BaseException):
    """A command ran into the guard."""


@dataclass(frozen=True)
class Outcome:
    """What a person sees of a command."""

    code: int
    said: str
    printed: str
    trace: str
    """Empty where no exception escaped."""

    def problem(self, *names: str) -> str | None:
        """What is wrong with a refusal: a traceback, a strange code, too many lines, or none of `names` said."""
        if self.trace:
            return f"traceback: {self.trace}"
        if self.code not in (1, 2):
            return f"exit code {self.code}"
        lines = self.said.strip().splitlines()
        if not 1 <= len(lines) <= 40 or max(map(len, lines)) > 3000:
            return f"{len(lines)} lines, the longest of {max(map(len, lines), default=0)} characters"
        if names and not any(name in self.said for name in names):
            return f"names none of {names}: {self.said[:300]}"
        return None


def strata(*arguments: str) -> Outcome:
    """The command line, in this process and folder."""
    handlers, levels = logging.getLogger().handlers[:], {n: logging.getLogger(n).level for n in ("strata_sae",)}
    try:
        with _guarded():
            result = CliRunner().invoke(app, ["--quiet", *arguments])
    except NoEnd:
        return Outcome(-1, "", "", f"no end in {HANG_SECONDS} s")
    finally:
        logging.getLogger().handlers[:] = handlers
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
    error = result.exception
    escaped = error is not None and not isinstance(error, SystemExit)
    frames = traceback.extract_tb(error.__traceback__) if escaped and error is not None else []
    mine = [
        f"{Path(f.filename).name}:{f.lineno}" for f in frames if "/pipeline/" in f.filename or "/stores/" in f.filename
    ]
    trace = f"{type(error).__name__}: {str(error)[:200]} at {mine[-1:] or '?'}" if escaped else ""
    return Outcome(result.exit_code, result.stderr, result.stdout, trace)


@contextmanager
def _guarded() -> Iterator[None]:
    def ended(number: int, frame: FrameType | None) -> None:
        raise NoEnd

    before = signal.signal(signal.SIGALRM, ended)
    signal.alarm(HANG_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@dataclass
class World:
    """Files that work, and how to bring them back after one of them was damaged."""

    folder: Path
    config: dict[str, Any]
    pristine: dict[str, bytes] = field(default_factory=dict, repr=False)
    answers: dict[str, Any] = field(default_factory=dict, repr=False)
    """What undamaged files gave, remembered by whoever asks first."""

    def once(self, name: str, ask: Callable[[], Any]) -> Any:
        """The answer of undamaged files."""
        if name not in self.answers:
            self.answers[name] = ask()
        return self.answers[name]

    def files(self, top: str) -> list[str]:
        """Undamaged files below a folder, by path."""
        return sorted(name for name in self.pristine if name.startswith(f"{top}/"))

    def write(self, name: str, data: bytes) -> None:
        """Replace a file, whatever its mode."""
        path = self.folder / name
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def restore(self, *tops: str) -> None:
        """Bring everything below some folders back as it was; what came to lie there goes."""
        for top in tops:
            for path in sorted((self.folder / top).rglob("*"), reverse=True):
                name = str(path.relative_to(self.folder))
                if path.is_symlink() or (path.is_file() and name not in self.pristine):
                    path.unlink()
            for name in self.files(top):
                path = self.folder / name
                if not path.is_file() or path.read_bytes() != self.pristine[name]:
                    self.write(name, self.pristine[name])


def make_world(folder: Path) -> World:
    """Build everything in `folder`, which becomes the working folder."""
    os.chdir(folder)
    save_tiny_model(Path("model"), "llama")
    texts = [" ".join(f"the king of town {i} word {w * i % 7}" for w in range(2 + i * 5 % 11)) for i in range(60)]
    chats = [[{"role": "user", "content": text}, {"role": "assistant", "content": text[::-1]}] for text in texts]
    Path("corpus").mkdir()
    Path("corpus/docs.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    Path("corpus/chats.jsonl").write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    pq.write_table(pa.table({"text": texts}), "corpus/docs.parquet")
    config: dict[str, Any] = {
        "name": "base",
        "seed": 0,
        "model": {"path": "model", "device": "cpu", "batch_tokens": 128},
        "corpus": {
            "sources": [{"kind": "jsonl", "paths": ["corpus/docs.jsonl"], "column": "text"}],
            "n_tokens": 2000,
            "context_length": 32,
            "heldout_fraction": 0.1,
        },
        "store": {"sites": SITES, "encoding": "bfloat16", "chunk_bytes": 4096, "shard_bytes": 32768},
        "training": {
            "n_steps": 10,
            "warmup_steps": 0,
            "batch_size": 64,
            "window_rows": 1024,
            "log_every_steps": 2,
            "device": "cpu",
            "calibration_rows": 256,
            "filters": {"drop_bos": True, "max_norm_multiple": 10.0},
        },
        "variants": {
            "topk": {"sae": {"architecture": "topk", "d_sae": 64, "k": 4}, "objective": {"reconstruction": {}}},
            "relu": {
                "sae": {"architecture": "relu", "d_sae": 64},
                "objective": {"reconstruction": {}, "l1": {"weight": {"start": 0.0, "end": 0.05}}},
            },
        },
        "evaluation": {"batch_size": 128, "example_latents": 2, "examples_per_latent": 2},
    }
    Path("base.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    done = strata("run", "base.yaml")
    assert done.code == 0, (done.said, done.trace)
    world = World(folder, config)
    for top in ("corpus", "data", "runs", "model"):
        for path in sorted(folder.glob(f"{top}/**/*")):
            if path.is_file():
                world.pristine[str(path.relative_to(folder))] = path.read_bytes()
    return world


def digest(folder: Path) -> str:
    """Hash of all files below a folder, by name."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            total.update(f"{path.relative_to(folder)}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\0".encode())
    return total.hexdigest()


def remove(path: Path) -> None:
    """Remove a folder that may hold read-only files; one that is not there is no error."""
    shutil.rmtree(path, ignore_errors=True)
