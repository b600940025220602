"""Kinds of input, each with one random case: damage a file or a value, call a command, judge what came of it.

A case gives a verdict: `refused` (exit 1 or 2, few lines that name the place), `equal` (the same output as without the
damage) or `recorded` (another recorded identity). Anything else is a problem, with what was done.
"""

import hashlib
import io
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from strata_sae.pipeline.config.loading import dump, load
from strata_sae.pipeline.errors import CheckpointError, ConfigError
from strata_sae.pipeline.strict_yaml import parse
from strata_sae.stores.errors import StoreError
from strata_sae.stores.front.store import ActivationStore
from strata_sae.stores.remote.pull import pull
from strata_sae.stores.remote.transports import RetryPolicy
from support.mutating_server import MutatingServer
from support.mutation_world import World, remove, strata
from support.mutations import HOSTILE_VALUES, mutated_bytes, mutated_tree

HASTY = RetryPolicy(stall_seconds=60, attempts=2, pause_seconds=0.001, grace_seconds=300)
MUTATED = Path("mutated.yaml")


class Verdict(NamedTuple):
    """What came of a case."""

    kind: str
    """`refused`, `equal`, `recorded`, or `wrong`."""
    case: str
    """What was done, and for `wrong` what is wrong with what came of it."""


def refused(problem: str | None, case: str) -> Verdict:
    """The verdict on a refusal, given what is wrong with it."""
    return Verdict("wrong", f"{case}: {problem}") if problem else Verdict("refused", case)


def same(is_same: bool, case: str, otherwise: str) -> Verdict:
    """The verdict on an output that should be that of undamaged files."""
    return Verdict("equal", case) if is_same else Verdict("wrong", f"{case}: {otherwise}")


def configs(world: World, rng: random.Random) -> Verdict:
    """A YAML file: accepted only if every change of it is in the config that is recorded."""
    text = yaml.safe_dump(world.config, sort_keys=False)
    if rng.random() < 0.3:
        data, what = mutated_bytes(rng, text.encode())
    else:
        tree, what = mutated_tree(rng, world.config)
        data = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True).encode("utf-8", "surrogatepass")
    MUTATED.write_bytes(data)
    command = rng.choice([["plan"], ["train", "--dry-run"], ["plan", "--set", "name=fresh"]])
    case = f"{' '.join(command)} with {what}"
    done = strata(command[0], str(MUTATED), *command[1:])
    if done.code != 0 or done.trace:
        return refused(done.problem(str(MUTATED), *world.config), case)
    before, after = world.once("tree", lambda: _plain(text)), _plain(data.decode())
    if before == after:
        return Verdict("equal", case)
    defaults = world.once("dump", lambda: dump(load(Path("base.yaml"))))
    # What is not recorded anew may be a key that was dropped where it had its default, and nothing else.
    recorded = dump(load(MUTATED)) != defaults or _covers(_plain(defaults), after)
    return Verdict("recorded", case) if recorded else Verdict("wrong", f"{case}: ignored")


def _plain(text: str) -> Any:
    return parse(text, "text")[0]


def _covers(whole: Any, part: Any) -> bool:
    """Whether every value of `part` stands at the same place of `whole`."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(key in whole and _covers(whole[key], item) for key, item in part.items())
    if isinstance(part, list):
        return isinstance(whole, list) and len(whole) == len(part) and all(map(_covers, whole, part))
    return bool(whole == part)


class Rows(NamedTuple):
    """A corpus file and how it is mutated row by row."""

    path: str
    source: dict[str, Any]
    read: Callable[[bytes], list[Any]]
    write: Callable[[list[Any]], bytes]


def _from_jsonl(data: bytes) -> list[Any]:
    return [json.loads(line) for line in data.splitlines()]


def _to_jsonl(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _from_parquet(data: bytes) -> list[Any]:
    return list(pq.read_table(io.BytesIO(data)).to_pylist())


def _to_parquet(rows: list[Any]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([row if isinstance(row, dict) else {"text": row} for row in rows]), file)
    return file.getvalue()


ROWS = {
    "jsonl": Rows("corpus/docs.jsonl", {"kind": "jsonl", "column": "text"}, _from_jsonl, _to_jsonl),
    "chats": Rows("corpus/chats.jsonl", {"kind": "jsonl", "column": "messages", "chat": True}, _from_jsonl, _to_jsonl),
    "parquet": Rows("corpus/docs.parquet", {"kind": "parquet", "column": "text"}, _from_parquet, _to_parquet),
}


def corpora(kind: str) -> Callable[[World, random.Random], Verdict]:
    """A corpus file: accepted only if the plan records its very bytes, and every row is a document or counted."""
    rows = ROWS[kind]

    def case(world: World, rng: random.Random) -> Verdict:
        original = world.pristine[rows.path]
        trees = None
        if rng.random() < 0.5:
            trees, what = mutated_tree(rng, rows.read(original))
            try:
                data = rows.write(trees)
            except (pa.ArrowException, ValueError, OverflowError, TypeError):
                data, what = mutated_bytes(rng, original)
                trees = None
        else:
            data, what = mutated_bytes(rng, original)
        skip = rng.random() < 0.5
        case = f"{kind}{' with bad_rows: skip' if skip else ''}: {what}"
        world.write(rows.path, data)
        try:
            return _corpus_verdict(world, rows, data, trees, skip, case)
        finally:
            world.restore("corpus")
            remove(Path("data/mutated"))

    return case


def _corpus_verdict(world: World, rows: Rows, data: bytes, trees: Any, skip: bool, case: str) -> Verdict:
    config = {
        **world.config,
        "name": "mutated",
        "corpus": {
            "sources": [rows.source | {"paths": [rows.path]}],
            "n_tokens": None,
            "context_length": 32,
            "short_documents": "skip",
            "bad_rows": "skip" if skip else "error",
        },
    }
    MUTATED.write_text(yaml.safe_dump(config))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("strata_sae.pipeline.extractor.extract.fill", lambda *_, **__: None)  # the plan says it all
        done = strata("extract", str(MUTATED))
    if done.code != 0 or done.trace:
        return refused(done.problem(Path(rows.path).name, "corpus."), case)
    plan = json.loads(Path("data/mutated/plan.json").read_text())
    corpus = plan["provenance"]["corpus"]
    recorded = [file["sha256"] for source in corpus["sources"] for file in source["files"]]
    if recorded != [hashlib.sha256(data).hexdigest()]:
        return Verdict("wrong", f"{case}: the plan records other bytes")
    if trees is not None:
        bad = sum(source.get("bad_rows", {}).get("count", 0) for source in corpus["sources"])
        shorts = len(trees) - plan["n_documents"] - bad
        if shorts != _short(trees, plan["n_documents"] + bad):
            return Verdict("wrong", f"{case}: {len(trees)} rows, {plan['n_documents']} documents and {bad} bad rows")
    return Verdict("recorded" if data != world.pristine[rows.path] else "equal", case)


def _short(trees: list[Any], accounted: int) -> int:
    """Rows of the mutated corpus that may be left out as too short, given how many are accounted for."""
    texts = [next(iter(row.values()), None) if isinstance(row, dict) else row for row in trees]
    tiny = sum(1 for text in texts if _letters(text) < 2)
    return min(max(len(trees) - accounted, 0), tiny)


def _letters(value: Any) -> int:
    if isinstance(value, str):
        return len(value.encode("utf-8", "replace"))
    if isinstance(value, list):
        return sum(_letters(item) for item in value)
    return sum(_letters(item) for item in value.values()) if isinstance(value, dict) else 0


def models(world: World, rng: random.Random) -> Verdict:
    """A model's folder: refused, or another identity in the plan, or the very same rows."""
    name = rng.choice(world.files("model"))
    original = world.pristine[name]
    if name.endswith(".json") and rng.random() < 0.7:
        tree, what = mutated_tree(rng, json.loads(original))
        data = json.dumps(tree).encode()
    else:
        data, what = mutated_bytes(rng, original)
    case = f"{name}: {what}"
    world.write(name, data)
    try:
        done = strata("extract", "base.yaml", "--set", "store.path=data/mutated")  # named, so none is reused
        if done.code != 0 or done.trace:
            return refused(done.problem("model", "base.yaml"), case)
        model = json.loads(Path("data/mutated/plan.json").read_text())["provenance"]["model"]
        before = json.loads(world.pristine["data/base/plan.json"])["provenance"]["model"]
        if model != before:
            return Verdict("recorded", case)
        return same(_rows(Path("data/mutated")) == _base_rows(world), case, "other rows under the same identity")
    finally:
        world.restore("model")
        remove(Path("data/mutated"))


def _rows(path: Path) -> str:
    """Hash of all that a reader can get from a store."""
    store = ActivationStore.open(path)
    total = hashlib.sha256()
    for site in sorted(store.plan.sites):
        total.update(np.ascontiguousarray(store.rows(site, 0, store.plan.n_rows)).tobytes())
        total.update(np.ascontiguousarray(store.norms(site, 0, store.plan.n_rows)).tobytes())
        total.update(json.dumps(store.statistics(site), sort_keys=True).encode())
    for field in ("token_id", "document", "position", "flags"):
        total.update(store.token_map(field, 0, store.plan.n_rows).tobytes())
    total.update(json.dumps(store.vocabulary).encode())
    return total.hexdigest()


def _base_rows(world: World) -> str:
    def ask() -> str:
        return _rows(Path("data/base"))

    return str(world.once("rows", ask))


def stores(world: World, rng: random.Random) -> Verdict:
    """A store's file: what is read is what was written, or the reader refuses and names the file."""
    _base_rows(world)
    names = [name for name in world.files("data") if "/timings/" not in name]
    name = rng.choice(names)
    original = world.pristine[name]
    if rng.random() < 0.3:
        other = rng.choice([other for other in names if other != name])
        data, what = world.pristine[other], f"the bytes of {other}"
    elif name.endswith(".json") and rng.random() < 0.6:
        tree, what = mutated_tree(rng, json.loads(original))
        data = json.dumps(tree, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    else:
        data, what = mutated_bytes(rng, original)
    case = f"{name}: {what}"
    world.write(name, data)
    try:
        try:
            verdict = same(_rows(Path("data/base")) == _base_rows(world), case, "other rows are read")
        except StoreError as error:
            lines = str(error).splitlines()
            verdict = refused(None if 0 < len(lines) <= 12 and "data/base" in str(error) else str(error), case)
        except Exception as error:  # whatever it is, it is no clear refusal
            verdict = Verdict("wrong", f"{case}: {type(error).__name__}: {error}")
        if verdict.kind == "wrong" or data == original:
            return verdict
        done = strata("store", "verify", "--deep", "data/base")
        return verdict if done.code == 1 and not done.problem() else Verdict("wrong", f"{case}: verify: {done}")
    finally:
        world.restore("data")


def runs(world: World, rng: random.Random) -> Verdict:
    """A run folder's file: a later command refuses it, does it anew, or the page says what is missing."""
    # What loader/ says of the clock is part of no result; it has no hash, and the page says so.
    names = [name for name in world.files("runs") if not name.endswith((".html", ".csv")) and "/loader/" not in name]
    name = rng.choice(names)
    original = world.pristine[name]
    alike = [other for other in names if Path(other).name == Path(name).name and other != name]
    if alike and rng.random() < 0.2:
        other = rng.choice(alike)
        data, what = world.pristine[other], f"the bytes of {other}"
    elif name.endswith(".json") and rng.random() < 0.6:
        tree, what = mutated_tree(rng, json.loads(original))
        data = json.dumps(tree, sort_keys=True, indent=2).encode() + b"\n"
    elif rng.random() < 0.1:
        data, what = None, "gone"
    else:
        data, what = mutated_bytes(rng, original)
    command = rng.choice(["evaluate", "report", "report"])
    case = f"{command} with {name}: {what}"
    if data is None:
        (world.folder / name).unlink()
    else:
        world.write(name, data)
    try:
        done = strata(command, "base.yaml")
        if done.code != 0 or done.trace:
            return refused(done.problem("runs/base"), case)
        return _report_verdict(world, name, case) if command == "report" else _scores_verdict(world, name, case)
    finally:
        world.restore("runs")


def _report_verdict(world: World, name: str, case: str) -> Verdict:
    page = Path("runs/base/report.html").read_text()
    if page.encode() == world.pristine["runs/base/report.html"]:
        return Verdict("equal", case)
    variant = Path(name).parent.name
    told = Path(name).name in page and (variant in page or variant == "base")
    return Verdict("refused", case) if told else Verdict("wrong", f"{case}: another page that does not name the file")


def _scores_verdict(world: World, name: str, case: str) -> Verdict:
    for other in world.files("runs"):
        if Path(other).name in ("metrics.json", "features.safetensors", "examples.json"):
            if not (world.folder / other).exists() and Path(other).parent == Path(name).parent:
                continue  # an SAE that is no longer there has no scores
            if not _says_the_same(other, (world.folder / other).read_bytes(), world.pristine[other]):
                return Verdict("wrong", f"{case}: {other} is another")
    return Verdict("equal", case)


def _says_the_same(name: str, found: bytes, expected: bytes) -> bool:
    """A record with a space more between its keys is the same record: its hash is that of what it says.

    Spelt again before they are compared, since to Python 1, 1.0 and True are equal.
    """
    return found == expected or (
        name.endswith(".json") and json.dumps(json.loads(found)) == json.dumps(json.loads(expected))
    )


def answers(world: World, rng: random.Random) -> Verdict:
    """A web server's answer: what is pulled is the store, or the pull refuses and leaves nothing that looks whole."""
    name = rng.choice([name for name in world.files("data/base") if "/timings/" not in name])
    server = world.once("server", lambda: MutatingServer(world.folder))
    what = server.mutate(name, rng)
    case = f"{name}: {what}"
    out = Path("pulled")
    with server.running():
        try:
            pull(f"{server.url}/data/base", out, policy=HASTY)
        except StoreError as error:
            return refused(
                None
                if len(str(error).splitlines()) <= 12 and any(n in str(error) for n in ("127.0.0.1", "pulled"))
                else str(error),
                case,
            )
        except (ConfigError, CheckpointError) as error:
            return refused(None, f"{case}: {error}")
        except Exception as error:  # whatever it is, it is no clear refusal
            return Verdict("wrong", f"{case}: {type(error).__name__}: {error}")
        else:
            return same(_rows(out) == _base_rows(world), case, "another store was pulled")
        finally:
            server.honest()
            remove(out)


VARIABLES = [
    "STRATA_DATA", "STRATA_CACHE", "STRATA_CACHE_BYTES", "XDG_CACHE_HOME", "HOME", "OMP_NUM_THREADS", "TMPDIR",
    "NUMBA_CACHE_DIR", "HF_HOME", "LANG", "NO_COLOR", "COLUMNS", "TERM",
]  # fmt: skip
COMMANDS = [("store", "info", "data/base"), ("train", "base.yaml", "--dry-run"), ("plan", "base.yaml"),
            ("evaluate", "base.yaml"), ("store", "list", "data")]  # fmt: skip


def environment(world: World, rng: random.Random) -> Verdict:
    """An environment variable: refused by its name, or the output is what it is without it."""
    variable, command = rng.choice(VARIABLES), rng.choice(COMMANDS)
    value = str(rng.choice([value for value in HOSTILE_VALUES if "\0" not in str(value)]))[:200]
    value = value.encode("utf-8", "surrogateescape" if value != "\ud800" else "replace").decode()
    case = f"{' '.join(command)} with {variable}={value!a}"

    def call() -> str:
        done = strata(*command)
        assert done.code == 0, done
        return done.printed

    expected = world.once(f"printed {command}", call)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(variable, value)
        done = strata(*command)
    world.restore("data", "runs")
    if done.code != 0 or done.trace:
        return refused(done.problem(variable, value, "base"), case)
    if variable == "STRATA_DATA":
        return Verdict("recorded", case)
    return same(_without_times(done.printed) == _without_times(expected), case, f"another output: {done.printed}")


def _without_times(text: str) -> str:
    """The output without what the clock says: ages, in their units and columns, speeds and sizes of memory."""
    return re.sub(r" +", " ", re.sub(r"[0-9][0-9.,:]*( (s|min|h|d)\b)?", "#", text))


FAMILIES: dict[str, Callable[[World, random.Random], Verdict]] = {
    "configs": configs,
    **{kind: corpora(kind) for kind in ROWS},
    "models": models,
    "stores": stores,
    "runs": runs,
    "answers": answers,
    "environment": environment,
}
SHARES = {
    "configs": 24,
    "jsonl": 10,
    "chats": 10,
    "parquet": 8,
    "models": 8,
    "stores": 16,
    "runs": 14,
    "answers": 6,
    "environment": 4,
}
"""Per cent of all cases."""
