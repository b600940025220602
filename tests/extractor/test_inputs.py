"""Identity is of the input's bytes: whatever is "already there" is held against the files, commits and versions now."""

import ast
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import datasets
import huggingface_hub.constants
import pyarrow
import pyarrow.parquet
import pytest

import strata_sae.pipeline.extractor as package
import strata_sae.pipeline.extractor.provenance as inputs
import strata_sae.pipeline.extractor.sources as sources
from strata_sae.pipeline.config import RunConfig
from strata_sae.pipeline.config.corpus import CorpusSettings, Source
from strata_sae.pipeline.engines.local import Local
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.evaluation.evaluate import evaluate
from strata_sae.pipeline.extractor.documents import READERS
from strata_sae.pipeline.extractor.extract import describe_plan, extract
from strata_sae.pipeline.extractor.provenance import COMPARE, compare_corpus
from strata_sae.pipeline.extractor.spool import spool_documents
from strata_sae.pipeline.input_files import Comparison
from strata_sae.pipeline.language_model.loading import compare_model, describe
from strata_sae.pipeline.report.page import write_report
from strata_sae.pipeline.settings import ModelSettings
from strata_sae.pipeline.trainer.train import train
from support.extraction import extraction_config
from support.fake_hub import TOKEN, FakeHub
from support.lying_server import serving

KINDS = {settings.model_fields["kind"].annotation.__args__[0] for settings in get_args(get_args(Source)[0])}


def texts(path: Path, words: list[str]) -> None:
    """A document a word, in the form that the name asks for."""
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.table({"text": words}), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"text": word}) + "\n" for word in words), encoding="utf-8")
    else:
        path.write_text(" ".join(words), encoding="utf-8")


FILES = {"text": "*.txt", "jsonl": "*.jsonl", "parquet": "*.parquet", "dataset": "*.jsonl"}
"""Kinds that are read from files, and what their names look like."""
ELSEWHERE = {"python_docs", "dataset"}
"""Kinds that are read from somewhere else, or can be; each has a test of its own below."""


def test_every_kind_of_source_is_known_here() -> None:
    assert KINDS == FILES.keys() | ELSEWHERE == COMPARE.keys() == READERS.keys()


class Corpus:
    """A source in a folder, and what was recorded when it was read."""

    def __init__(self, folder: Path, kind: str, tokenizer: Any, n_tokens: int | None = None) -> None:
        self.folder, self.kind, self._tokenizer = folder, kind, tokenizer
        folder.mkdir()
        for name in "abc":
            texts(self.file(name), [f"{name} one", f"{name} two"])
        paths = {"path": str(folder)} if kind == "dataset" else {"paths": [str(folder / FILES[kind])]}
        settings = {"sources": [{"kind": kind, **paths}], "n_tokens": n_tokens, "prepend_bos": False}
        self.settings = CorpusSettings.model_validate(settings)
        self.plan: Any = SimpleNamespace(provenance={"corpus": self.read()})

    def file(self, name: str) -> Path:
        return self.folder / FILES[self.kind].replace("*", name)

    def read(self) -> dict[str, Any]:
        spool = self.folder.with_name("spool")
        return spool_documents(self.settings, self._tokenizer, spool, False).provenance

    def compared(self) -> Comparison:
        config: Any = SimpleNamespace(corpus=self.settings)
        return compare_corpus(self.plan, config)


@pytest.fixture
def corpus_of(tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Corpus]]:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    yield lambda kind, **options: Corpus(tmp_path / "corpus", kind, tokenizer, **options)
    datasets.enable_progress_bars()


def replaced(corpus: Corpus) -> None:
    texts(corpus.file("b"), ["another text", "and one more"])


def replaced_by_the_same_size(corpus: Corpus) -> None:
    file, found = corpus.file("b"), corpus.file("b").stat()
    file.write_bytes(file.read_bytes()[::-1])
    os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns))


def added(corpus: Corpus) -> None:
    texts(corpus.file("bb"), ["bb"])


def removed(corpus: Corpus) -> None:
    corpus.file("b").unlink()


def exchanged(corpus: Corpus) -> None:
    corpus.file("b").rename(corpus.file("x"))
    corpus.file("c").rename(corpus.file("b"))
    corpus.file("x").rename(corpus.file("c"))


DIFFERENCES = {replaced: "b.", replaced_by_the_same_size: "b.", added: "bb.", removed: "b.", exchanged: "c."}


@pytest.mark.parametrize("change", DIFFERENCES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_differs_is_named(corpus_of: Callable[..., Corpus], kind: str, change: Callable) -> None:
    corpus = corpus_of(kind)
    assert corpus.compared() == Comparison(), "control: unchanged, nothing differs"
    before = corpus.plan.provenance["corpus"]
    change(corpus)
    found = corpus.compared()
    assert any(f"corpus.sources[0] ({kind}): {DIFFERENCES[change]}" in line for line in found.differences), found
    if change is not replaced_by_the_same_size:  # turned round, it is no file of its kind
        assert corpus.read() != before, "control: another plan would be made of it"


@pytest.mark.parametrize("kind", FILES)
def test_what_was_deleted_or_merely_touched_does_not_differ(corpus_of: Callable[..., Corpus], kind: str) -> None:
    corpus = corpus_of(kind)
    os.utime(corpus.file("b"), ns=(1, 1))
    assert corpus.compared() == Comparison()
    shutil.rmtree(corpus.folder)
    found = corpus.compared()
    assert (found.differences, len(found.unknown)) == ((), 1)
    assert "none of its files is there" in found.unknown[0]


@pytest.mark.parametrize("kind", [kind for kind in FILES if kind != "dataset"])
def test_files_beyond_the_budget_count_by_their_names(corpus_of: Callable[..., Corpus], kind: str) -> None:
    corpus = corpus_of(kind, n_tokens=6)
    assert [file["name"][0] for file in corpus.plan.provenance["corpus"]["sources"][0]["files"]] == ["a"]
    texts(corpus.file("c"), ["never read"])
    assert corpus.compared() == Comparison(), "the rows are no function of it"
    texts(corpus.file("d"), ["new"])
    assert corpus.compared().differences == (
        f"corpus.sources[0] ({kind}): {corpus.file('d').name}: was absent, is there",
    )


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_changes_while_it_is_read_is_refused(
    corpus_of: Callable[..., Corpus], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = corpus_of(kind)
    hashed = sources.describe

    def late(*arguments: Any) -> dict[str, Any]:
        replaced(corpus)
        return hashed(*arguments)

    monkeypatch.setattr(sources, "describe", late)
    with pytest.raises(ConfigError, match=r"b\.\w+ changed while it was read"):
        corpus.read()
    monkeypatch.setattr(sources, "describe", hashed)
    corpus.read()


def test_a_plan_of_before_compares_the_files_it_names(corpus_of: Callable[..., Corpus]) -> None:
    corpus = corpus_of("jsonl")
    del corpus.plan.provenance["corpus"]["sources"][0]["files_not_read"]
    added(corpus)
    assert corpus.compared() == Comparison(), "it does not say whether that file was there"
    replaced(corpus)
    assert "b.jsonl: sha256 was" in corpus.compared().differences[0]
    corpus.plan.provenance.clear()
    assert "does not say what was read" in corpus.compared().unknown[0]


NO_RECORDS = [None, [], {}, 7, "x", [None], [7], ["x"], [{}], {"sources": 7}, {"sources": [{"files": 7}]}]
NO_RECORDS += [{"sources": [{"files": [file], "files_not_read": []}]} for file in (7, {}, {"name": [], "sha256": 7})]
NO_RECORDS += [{"sources": [{"files": [{"name": "a.jsonl", "sha256": 7}], "files_not_read": 7}]}]


@pytest.mark.parametrize("recorded", NO_RECORDS, ids=str)
def test_a_strangers_provenance_is_no_reason_to_stop(
    corpus_of: Callable[..., Corpus], model_record: tuple[RunConfig, dict[str, Any]], recorded: Any
) -> None:
    corpus = corpus_of("jsonl")
    config: Any = SimpleNamespace(corpus=corpus.settings, model=model_record[0].model)
    corpus.plan.provenance = {"corpus": recorded, "model": recorded}
    found = inputs.compare_inputs(corpus.plan, config)
    assert [line.partition(":")[0] for line in found.unknown] == ["corpus.sources[0] (jsonl)", "model.path"]
    assert found.differences == ()
    corpus.plan.provenance = {}
    assert inputs.compare_inputs(corpus.plan, config) == found


def test_another_python_is_another_text(tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = CorpusSettings.model_validate({"sources": [{"kind": "python_docs"}], "n_tokens": 100})
    spool = spool_documents(settings, tokenizer, tmp_path, False)
    plan: Any = SimpleNamespace(provenance={"corpus": spool.provenance})
    config: Any = SimpleNamespace(corpus=settings)
    assert compare_corpus(plan, config) == Comparison()
    monkeypatch.setattr(inputs.platform, "python_version", lambda: "3.99.0")
    assert "is 3.99.0" in compare_corpus(plan, config).differences[0]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with serving(FakeHub()) as server:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.url)
        server.commits["someone/thing"] = [{}]
        yield server


def dataset_of_the_hub(revision: str | None, commit: str) -> Comparison:
    source = {"kind": "dataset", "path": "someone/thing", "revision": revision}
    config: Any = SimpleNamespace(
        corpus=SimpleNamespace(
            sources=[CorpusSettings.model_validate({"sources": [source], "n_tokens": 10}).sources[0]]
        )
    )
    recorded = {"sources": [{"path": "someone/thing", "commits": [commit]}]}
    plan: Any = SimpleNamespace(provenance={"corpus": recorded})
    return compare_corpus(plan, config)


def model_of_the_hub(revision: str | None, commit: str) -> Comparison:
    return compare_model(ModelSettings(path="someone/thing", revision=revision), {"revision": commit})


@pytest.mark.parametrize("compared", [dataset_of_the_hub, model_of_the_hub])
def test_a_branch_of_the_hub_that_moved_is_a_difference(
    hub: FakeHub, compared: Callable[..., Comparison], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = f"{0:040d}", f"{1:040d}"
    assert compared(None, first) == compared("main", first) == Comparison(), "control"
    hub.commits["someone/thing"].append({"new": b""})
    for branch in (None, "main"):
        assert f"commit was {first}, is {second}" in compared(branch, first).differences[0]
    assert compared(first, first) == Comparison(), "a pinned commit cannot move"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    found = compared("main", first)
    assert found.differences == ()
    assert "does not say which commit" in found.unknown[0]
    assert compared(first, first) == Comparison(), "and nobody is asked for it"


# The model: every file of the folder is an input, or named here with the reason why not.
NO_INPUTS = {"generation_config.json"}
"""How text is generated, which nobody does here."""


@pytest.fixture(scope="module")
def model_record(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, dict[str, Any]]:
    config = extraction_config(tmp_path_factory.mktemp("model"))
    return config, describe(config.model, config.store.sites).provenance


def test_every_file_of_a_model_is_an_input_or_said_to_be_none(model_record: tuple[RunConfig, dict[str, Any]]) -> None:
    config, record = model_record
    known = {*record["weight_files_sha256"], "config.json", *record["tokenizer"]["tokenizer_files_sha256"]}
    assert known | NO_INPUTS == set(os.listdir(config.model.path))
    assert compare_model(config.model, record) == Comparison()


@pytest.mark.parametrize("how", ["replaced", "removed"])
@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]
)
def test_a_file_of_the_model_that_differs_is_named(
    model_record: tuple[RunConfig, dict[str, Any]], name: str, how: str, tmp_path: Path
) -> None:
    config, record = model_record
    folder = shutil.copytree(config.model.path, tmp_path / "model")
    settings = config.model.model_copy(update={"path": str(folder)})
    assert compare_model(settings, record) == Comparison(), "control"
    if how == "removed":
        (folder / name).unlink()
        assert compare_model(settings, record) == Comparison(unknown=(f"model.path: {name} is not there",))
    else:
        (folder / name).write_bytes((folder / name).read_bytes() + b" ")
        found = compare_model(settings, record)
        assert found.unknown == ()
        assert [line.partition(": sha256")[0] for line in found.differences] == [f"model.path: {name}"]


def test_a_file_that_would_be_read_first_is_named(
    model_record: tuple[RunConfig, dict[str, Any]], tmp_path: Path
) -> None:
    config, record = model_record
    folder = shutil.copytree(config.model.path, tmp_path / "model")
    settings = config.model.model_copy(update={"path": str(folder)})
    (folder / "vocab.txt").write_text("a")
    assert compare_model(settings, record).differences == ("model.path: vocab.txt: was absent, is there",)


def test_code_that_is_run_is_an_input(model_record: tuple[RunConfig, dict[str, Any]], tmp_path: Path) -> None:
    config, _ = model_record
    folder = shutil.copytree(config.model.path, tmp_path / "model")
    (folder / "modeling.py").write_text("")
    trusted = {"path": str(folder), "trust_remote_code": True, "revision": "0" * 40}
    settings = config.model.model_copy(update=trusted)
    record = describe(settings, config.store.sites).provenance
    assert compare_model(settings, record) == Comparison()
    (folder / "modeling.py").write_text("pass")
    assert "modeling.py: sha256 was" in compare_model(settings, record).differences[0]
    plain = settings.model_copy(update={"trust_remote_code": False})
    record = describe(plain, config.store.sites).provenance
    (folder / "modeling.py").write_text("")
    assert compare_model(plain, record) == Comparison(), "nobody runs it"


def test_tokenizers_of_older_plans_and_gguf_files(
    model_record: tuple[RunConfig, dict[str, Any]], tmp_path: Path
) -> None:
    config, record = model_record
    folder = shutil.copytree(config.model.path, tmp_path / "model")
    settings = config.model.model_copy(update={"path": str(folder)})
    old = {key: value for key, value in record["tokenizer"].items() if key != "tokenizer_files_sha256"}
    assert compare_model(settings, record | {"tokenizer": old}) == Comparison()
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert "tokenizer.chat_template_sha256" in compare_model(settings, record | {"tokenizer": old}).differences[0]
    gguf = tmp_path / "x.gguf"
    gguf.write_bytes(b"GGUF")
    settings = config.model.model_copy(update={"path": str(gguf)})
    assert "x.gguf: sha256 was 0000" in compare_model(settings, {"gguf_sha256": "0" * 64}).differences[0]
    gguf.unlink()
    assert compare_model(settings, {"gguf_sha256": "0" * 64}).unknown == ("model.path: x.gguf is not there",)


# Where something that is there already is taken for what would be made now.


def finished(config: RunConfig) -> None:
    extract(config, show_progress=False)


def by_workers(config: RunConfig) -> None:
    extract(config, Local(2), show_progress=False)


def described(config: RunConfig) -> None:
    describe_plan(config, show_progress=False)


def half_filled(config: RunConfig) -> None:
    (config.store_path() / "MANIFEST.json").unlink(missing_ok=True)
    extract(config, show_progress=False)


PLACES = [finished, by_workers, described, half_filled]
READ_A_STORE = {
    "plan.py": {"_existing"},
    "extract.py": {"extract", "reusable", "_lacks_sites_only", "fill", "fill_share"},  # the last two follow `planned`
    "add_sites.py": {"add_sites"},  # the text is the store's; the model: test_another_model_is_refused
}
"""Functions of the extractor that look whether a store is there, by file."""


def test_every_place_that_takes_a_store_as_it_is_is_known_here() -> None:
    found: dict[str, set[str]] = {}
    for file in Path(package.__path__[0]).rglob("*.py"):
        for function in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef):
                names = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
                if names & {"MANIFEST", "read_plan"}:
                    found.setdefault(file.name, set()).add(function.name)
    assert found == READ_A_STORE


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    folder = tmp_path_factory.mktemp("extracted")
    config = extraction_config(folder, corpus={"n_tokens": 600})
    extract(config, show_progress=False)
    return config


@pytest.fixture
def run(extracted: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """A finished store `data/first` in the test's own folder, with its own model and text at relative paths."""
    folder = Path(extracted.model.path).parent
    for name in (Path(extracted.model.path).name, "text"):
        shutil.copytree(folder / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    source = {"kind": "text", "paths": ["text/*.txt"]}
    return extraction_config(
        tmp_path,
        corpus={"n_tokens": 600, "sources": [source]},
        model={"path": Path(extracted.model.path).name},
        store={"path": None},
    ).model_copy(update={"name": "first"})


CHANGES = {"text/000.txt": b"another", "model-llama/config.json": b"{}\n", "model-llama/model.safetensors": b"\0"}


@pytest.mark.parametrize("file", CHANGES)
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_a_store_of_other_inputs_is_not_taken(run: RunConfig, place: Callable, file: str) -> None:
    extract(run, show_progress=False)
    before = Path(file).read_bytes()
    Path(file).write_bytes(before + CHANGES[file])
    with pytest.raises(
        ConfigError, match=rf"{Path(file).name}: sha256 was \w{{12}}, is \w{{12}}.*another name"
    ) as error:
        place(run)
    assert "delete that folder" in str(error.value)
    assert "put back" in str(error.value)
    assert "\n" not in str(error.value)
    Path(file).write_bytes(before)
    place(run)


@pytest.mark.parametrize("file", CHANGES)
def test_another_runs_store_of_other_inputs_is_not_used(
    run: RunConfig, file: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    extract(run, show_progress=False)
    second = run.model_copy(update={"name": "second"})
    before = Path(file).read_bytes()
    assert "nothing is extracted" in describe_plan(second, show_progress=False), "control"
    Path(file).write_bytes(before + b" " if file.endswith("txt") else before[:-2] + b"\n}")
    if file.endswith("safetensors"):
        Path(file).write_bytes(before[:-4] + b"\0\0\x80\x3f")  # the last weight
    extract(second, show_progress=False)
    assert f"from other inputs: {'model.path' if 'model' in file else 'corpus.sources[0] (text)'}: " in caplog.text
    assert "not used" in caplog.text
    assert (second.store_path() / "MANIFEST.json").is_file()


@pytest.mark.parametrize("gone", ["text", "model-llama"])
def test_a_finished_store_whose_inputs_are_gone_is_used_and_says_so(
    run: RunConfig, gone: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    extract(run, show_progress=False)
    shutil.rmtree(gone)
    for config in (run, run.model_copy(update={"name": "second"})):
        caplog.clear()
        extract(config, show_progress=False)
        lines = [record.message for record in caplog.records if "not compared" in record.message]
        assert len(lines) == 1
        assert ("none of its files" if gone == "text" else "no folder model-llama") in lines[0]
        assert lines[0] in describe_plan(config, show_progress=False)


def test_what_comes_after_extraction_asks_for_neither_text_nor_model(run: RunConfig) -> None:
    extract(run, show_progress=False)
    shutil.rmtree("text")
    shutil.rmtree("model-llama")
    train(run, show_progress=False)
    evaluate(run, show_progress=False)
    assert write_report(run.run_path(), "title").is_file()
