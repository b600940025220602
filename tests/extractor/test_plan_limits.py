"""What `plan` accepts, `extract` finishes; what it refuses, it refuses by name, before anything is written."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from transformers import AutoTokenizer
from typer.testing import CliRunner, Result

import strata_sae.pipeline.extractor.costs as limits
import strata_sae.stores.files.canonical as canonical
import strata_sae.stores.format.plan_file as plan_module
from strata_sae.pipeline.commands.app import app
from strata_sae.pipeline.config.training import window_rows
from strata_sae.pipeline.extractor.costs import disk_bytes, filling_bytes, n_data_files, n_files
from strata_sae.pipeline.extractor.extract import describe_plan, extract
from strata_sae.pipeline.reading import feed
from strata_sae.pipeline.trainer.train import train
from strata_sae.stores import ActivationStore, Plan, read_plan
from strata_sae.stores.format.encodings import CODECS, COMPRESSORS
from support.extraction import extraction_config

Patch = pytest.MonkeyPatch
PAIRS = [(e, c) for e in CODECS for c in COMPRESSORS if c != "planes" or e == "bfloat16"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model (64 positions, 300 embeddings) and text, and a finished store `first` of 600 rows."""
    folder = tmp_path_factory.mktemp("limits")
    extract(
        extraction_config(folder, corpus={"n_tokens": 600}, store={"path": str(folder / "first")}), show_progress=False
    )
    return folder


@pytest.fixture
def strata(shared: Path, tmp_path: Path) -> Callable[..., Result]:
    """Runs a command on a config whose store is `tmp_path / "store"`; `changes` as `extraction_config` takes them."""

    def run(command: str, **changes: Any) -> Result:
        sections = {"corpus": {"n_tokens": 600}, "store": {"path": str(tmp_path / "store")}}
        for section, values in changes.items():
            sections[section] = sections.get(section, {}) | values if isinstance(values, dict) else values
        plain = extraction_config(shared).model_dump(mode="json", exclude={"sweep", "evaluation", "report", "toy"})
        for variant in plain["variants"].values():
            variant.pop("sweep", None)
        for section, values in sections.items():
            plain[section] = plain[section] | values if isinstance(values, dict) else values
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(plain), encoding="utf-8")
        return CliRunner().invoke(app, [command, str(tmp_path / "config.yaml")])

    return run


def planned(shared: Path) -> Plan:
    return read_plan(shared / "first")


def limit(name: str, of: Callable[[Plan], int], *modules: Any, spare: int = 0) -> Callable[[Patch, Path], None]:
    """A limit lowered to what this plan has, plus `spare`."""

    def patch(monkeypatch: Patch, shared: Path) -> None:
        for module in modules:
            monkeypatch.setattr(module, name, of(planned(shared)) + spare)

    return patch


def chunk(plan: Plan) -> int:
    return 4 * plan.rows_per_chunk * max(plan.sites.values())


def units(plan: Plan) -> int:
    return plan.n_units


def chunks(plan: Plan) -> int:
    return len(plan.unit_files(0)) * plan.rows_per_unit // plan.rows_per_chunk


def sites(plan: Plan) -> int:
    return len(plan.sites)


def columns(plan: Plan) -> int:
    return sum(plan.sites.values())


def disk_of(spare: int) -> Callable[[Patch, Path], None]:
    def patch(monkeypatch: Patch, shared: Path) -> None:
        free = disk_bytes(planned(shared)) + spare
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))

    return patch


def files_left(spare: int) -> Callable[[Patch, Path], None]:
    def patch(monkeypatch: Patch, shared: Path) -> None:
        left = n_files(planned(shared)) + spare
        found = os.statvfs(shared)
        fields = {name: getattr(found, name) for name in dir(found) if name.startswith("f_")}
        monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(**fields | {"f_files": 10**6, "f_favail": left}))

    return patch


def memory_of(spare: int) -> Callable[[Patch, Path], None]:
    def patch(monkeypatch: Patch, shared: Path) -> None:
        free = filling_bytes(planned(shared)) + spare
        monkeypatch.setattr(limits, "free_bytes", lambda _: free)

    return patch


def json_objects(spare: int) -> Callable[[Patch, Path], None]:
    def patch(monkeypatch: Patch, shared: Path) -> None:
        data = planned(shared).data
        monkeypatch.setattr(canonical, "MAX_JSON_OBJECTS", data.count(b"{") + data.count(b"[") + spare)

    return patch


def nothing(monkeypatch: Patch, shared: Path) -> None:
    """No change of the machine."""


MANY = 10**30
AROUND: dict[str, tuple[str, tuple[Callable, dict[str, Any]], tuple[Callable, dict[str, Any]]]] = {
    "context": (
        "corpus.context_length",
        (nothing, {"corpus": {"context_length": 64}}),
        (nothing, {"corpus": {"context_length": 65}}),
    ),
    "tokens": (
        "corpus.n_tokens",
        (nothing, {"corpus": {"n_tokens": 2, "heldout_fraction": 0.0}}),
        (nothing, {"corpus": {"n_tokens": 1}}),
    ),
    "tokens there are": (
        "corpus.n_tokens",
        (nothing, {"corpus": {"n_tokens": None}}),
        (nothing, {"corpus": {"n_tokens": 10**6}}),
    ),
    "digits of n_tokens": (
        "corpus.n_tokens",
        (nothing, {"corpus": {"n_tokens": 2000, "repeat": True}}),
        (nothing, {"corpus": {"n_tokens": MANY, "repeat": True}}),
    ),
    "seed": ("seed", (nothing, {"seed": 2**63 - 1}), (nothing, {"seed": 2**63})),
    "digits of the seed": ("seed", (nothing, {"seed": 10**18}), (nothing, {"seed": MANY})),
    "batch": (
        "model.batch_tokens",
        (nothing, {"model": {"batch_tokens": 2**31 - 1}}),
        (nothing, {"model": {"batch_tokens": 2**31}}),
    ),
    "device": ("model.device", (nothing, {"model": {"device": "cpu"}}), (nothing, {"model": {"device": "gpu"}})),
    "weight": ("corpus.sources.0.weight", (nothing, {"weight": 3e38}), (nothing, {"weight": 0.0})),
    "held out": (
        "corpus.heldout_fraction",
        (nothing, {"corpus": {"heldout_fraction": 0.9}}),
        (nothing, {"corpus": {"heldout_fraction": 0.99}}),
    ),
    "chunk": (
        "store.chunk_bytes",
        (limit("MAX_CHUNK_BYTES", chunk, limits, plan_module), {}),
        (limit("MAX_CHUNK_BYTES", chunk, limits, plan_module, spare=-1), {}),
    ),
    "largest chunk": (
        "store.chunk_bytes",
        (nothing, {"store": {"chunk_bytes": 2**20, "shard_bytes": 2**20}}),
        (nothing, {"store": {"chunk_bytes": 2**30 + 1}}),
    ),
    "largest shard": (
        "store.shard_bytes",
        (nothing, {"store": {"chunk_bytes": 2**20, "shard_bytes": 2**36}}),
        (nothing, {"store": {"shard_bytes": 2**42 + 1}}),
    ),
    "units": (
        "store.shard_bytes",
        (limit("MAX_UNITS", units, limits, plan_module), {}),
        (limit("MAX_UNITS", units, limits, plan_module, spare=-1), {}),
    ),
    "chunks of a unit": (
        "store.shard_bytes",
        (limit("MAX_CHUNKS_PER_UNIT", chunks, limits), {}),
        (limit("MAX_CHUNKS_PER_UNIT", chunks, limits, spare=-1), {}),
    ),
    "sites": (
        "store.sites",
        (limit("MAX_SITES", sites, limits, plan_module), {}),
        (limit("MAX_SITES", sites, limits, plan_module, spare=-1), {}),
    ),
    "columns": (
        "store.sites",
        (limit("MAX_WIDTHS", columns, limits, plan_module), {}),
        (limit("MAX_WIDTHS", columns, limits, plan_module, spare=-1), {}),
    ),
    "memory": ("model.batch_tokens", (memory_of(0), {}), (memory_of(-1), {})),
    "disk": ("store.path", (disk_of(0), {}), (disk_of(-1), {})),
    "files": ("store.shard_bytes", (files_left(0), {}), (files_left(-1), {})),
    "json": ("corpus, store", (json_objects(0), {}), (json_objects(-40), {})),
}
"""Limit -> the key that is named, and what lies on either side of it: the machine, and changes of the config."""


def with_weight(changes: dict[str, Any], shared: Path) -> dict[str, Any]:
    if "weight" not in changes:
        return changes
    source = extraction_config(shared).corpus.sources[0].model_dump(mode="json")
    return {"corpus": {"sources": [source | {"weight": changes["weight"]}], "n_tokens": 600}}


@pytest.mark.parametrize("name", AROUND)
def test_what_plan_accepts_extract_finishes(
    name: str, strata: Callable[..., Result], shared: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    _, (machine, changes), _ = AROUND[name]
    machine(monkeypatch, shared)
    changes = with_weight(changes, shared)
    done = strata("plan", **changes)
    assert done.exit_code == 0, done.output
    # Two sites; and nothing is to be said of this corpus, but where so few documents give an uneven held-out share.
    expected = [
        "model",
        "tokens",
        "copies",
        "site",
        "site",
        "store",
        "sequences",
        "units",
        "memory",
        "mixing",
        "time",
        "weights",
    ]
    titles = [line.split()[0] for line in done.stdout.splitlines()]
    assert [title for title in titles if title != "held"] == expected
    done = strata("extract", **changes)
    assert done.exit_code == 0, done.output
    ActivationStore.open(tmp_path / "store")


@pytest.mark.parametrize("command", ["plan", "extract"])
@pytest.mark.parametrize("name", AROUND)
def test_what_plan_refuses_is_bad_input_by_name(
    name: str, command: str, strata: Callable[..., Result], shared: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    key, _, (machine, changes) = AROUND[name]
    machine(monkeypatch, shared)
    done = strata(command, **with_weight(changes, shared))
    assert (done.exit_code, done.stdout) == (2, "")
    assert key in done.stderr.splitlines()[-1], done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml"], "nothing is left of the attempt"


def test_a_tokenizer_of_more_tokens_than_the_model_has_is_refused(
    strata: Callable[..., Result], shared: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(extraction_config(shared).model.path, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_tokens([f"filler{number}" for number in range(300 - len(tokenizer))])
    tokenizer.save_pretrained(model)
    changes = {"model": {"path": str(model)}}
    assert strata("plan", **changes).exit_code == 0, "control: all 300 of them"
    tokenizer.add_tokens(["town"])
    tokenizer.save_pretrained(model)
    done = strata("plan", **changes)
    assert done.exit_code == 2
    assert "model.path: the tokenizer gives token 300, and the model has 300 embeddings" in done.stderr


@pytest.mark.parametrize(("encoding", "compressor"), PAIRS)
def test_the_numbers_of_the_plan_are_those_of_the_disk(
    shared: Path, tmp_path: Path, encoding: str, compressor: str
) -> None:
    store = {"encoding": encoding, "compressor": compressor, "path": str(tmp_path / "store")}
    config = extraction_config(shared, corpus={"n_tokens": 600}, store=store)
    text = describe_plan(config, show_progress=False)
    extract(config, show_progress=False)
    files = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    data = [path for path in files if "c" in path.relative_to(tmp_path).parts]
    plan = read_plan(tmp_path / "store")
    assert f"{len(data):,} data files" in text
    assert len(data) == n_data_files(plan)
    assert len(files) <= n_files(plan)
    assert sum(path.stat().st_blocks * 512 for path in files) <= disk_bytes(plan)


def test_large_token_maps_have_several_shards(shared: Path) -> None:
    fields = {name: getattr(planned(shared), name) for name in Plan.__dataclass_fields__}
    large = Plan(**fields | {"n_rows": 2**24 + 1})
    assert n_data_files(large) == large.n_units * 4 + 8


@pytest.mark.parametrize("window_bytes", [2**30, 50 * 2 * 32 * 4, 1])
def test_the_mixing_that_is_announced_is_the_one_that_is_served(
    shared: Path, tmp_path: Path, monkeypatch: Patch, window_bytes: int
) -> None:
    monkeypatch.chdir(tmp_path)
    training = {"window_bytes": window_bytes, "window_rows": 400}
    config = extraction_config(
        shared, training=training, corpus={"n_tokens": 3000}, store={"path": str(tmp_path / "s")}
    )
    lines = [line for line in describe_plan(config, show_progress=False).splitlines() if line.startswith("mixing")]
    extract(config, show_progress=False)
    served: dict[str, int] = {}

    class Noted(feed.JoinedBatches):
        def __init__(self, sites: Any, stream: Any) -> None:
            super().__init__(sites, stream)
            served[sites[0][1]] = stream.window_rows

    monkeypatch.setattr(feed, "JoinedBatches", Noted)
    train(config, show_progress=False)
    plan = read_plan(tmp_path / "s")
    for site, rows in served.items():
        assert rows == window_rows(config.training, plan.bytes_per_row(site), config.training.batch_size)
        (line,) = [line for line in lines if site in line] if len(set(served.values())) > 1 else lines
        blocks = max(1, rows // plan.rows_per_chunk)
        assert f"a window of {blocks * plan.rows_per_chunk:,} rows" in line
        assert ("capped by training.window_bytes" in line) == (rows < 400)
    assert config.training.batch_size <= min(served.values())


def test_a_plan_that_does_not_fit_is_described_before_it_is_refused(
    shared: Path, tmp_path: Path, monkeypatch: Patch, caplog: pytest.LogCaptureFixture, strata: Callable[..., Result]
) -> None:
    disk_of(-1)(monkeypatch, shared)
    done = strata("plan")
    assert done.exit_code == 2
    assert "600 of" in done.stderr + caplog.text
    assert "its disk has" in done.stderr


def test_settings_that_no_store_can_have_are_found_before_the_text_is_read(
    shared: Path, tmp_path: Path, monkeypatch: Patch, strata: Callable[..., Result]
) -> None:
    monkeypatch.setattr(
        "strata_sae.pipeline.extractor.plan.spool_documents", lambda *_: pytest.fail("the text was read")
    )
    for name in ("chunk", "chunks of a unit", "sites", "columns", "device", "context"):
        key, _, (machine, changes) = AROUND[name]
        with monkeypatch.context() as patch:
            machine(patch, shared)
            done = strata("plan", **changes)
            assert (done.exit_code, key in done.stderr) == (2, True), done.output
