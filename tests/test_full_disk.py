"""A full disk at any write: one line that names the file, exit code 1, and with room again the undisturbed result."""

import ast
import errno
import os
import resource
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from strata_sae.pipeline.commands.app import app
from strata_sae.pipeline.config import dump
from strata_sae.stores.files.beats import THREAD
from strata_sae.stores.files.hashing import file_sha256
from support.extraction import SITES, extraction_config
from support.full_disk import disk
from support.small_run import TOPK

ROOT = Path(__file__).parents[1]
STAGES = ("extract", "train", "codes", "evaluate", "report", "export", "neuronpedia", "delphi", "pages")
RESULTS = (
    "weights.safetensors",
    "curves.jsonl",
    "metrics.json",
    "features.safetensors",
    "examples.json",
    "MANIFEST.json",
    "ae.pt",
)


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A work folder before each stage, and after the last."""
    folder = tmp_path_factory.mktemp("disk")
    (work := folder / "work").mkdir()
    made = extraction_config(
        folder,
        corpus={"n_tokens": 600},
        store={"path": "store", "sites": SITES[:1]},
        training={"n_steps": 4, "checkpoint_every_steps": 2, "log_every_steps": 1, "device": "cpu", "window_rows": 512},
        variants={"topk": TOPK},
    )
    (work / "c.yaml").write_text(dump(made))
    before = {}
    for stage in STAGES:
        before[stage] = shutil.copytree(work, folder / f"before-{stage}")
        os.chdir(work)
        assert strata(stage) == (0, "")
    return before | {"end": work}


@pytest.fixture(autouse=True)
def back_again() -> Iterator[None]:
    here = Path.cwd()
    yield
    os.chdir(here)


def strata(stage: str) -> tuple[int, str]:
    """Exit code, and what was said of an error."""
    sae = f"runs/small/topk@{SITES[0]}"
    others = {
        "codes": ["codes", "runs/small"],
        "export": ["export", sae, "--format=dictionary_learning", "--out=theirs"],
        "neuronpedia": ["export", sae, "--format=neuronpedia", "--out=viewed"],
        "delphi": ["export", sae, "--format=delphi", "--out=cached"],
        "pages": ["explore", "runs/small", "--export=pages", "--latents=1"],
    }
    result = CliRunner().invoke(app, ["--quiet", *others.get(stage, [stage, "c.yaml"])])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, "" if result.exit_code == 0 else result.stderr.splitlines()[-1]


def results(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): file_sha256(path) for path in sorted(folder.rglob("*")) if path.name in RESULTS
    }


def leavings(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".staged-*") if "store" not in path.parts]


@pytest.mark.parametrize(
    ("stage", "stride"),
    [
        ("extract", 15),
        ("train", 1),
        ("codes", 7),
        ("evaluate", 1),
        ("report", 1),
        ("export", 1),
        ("neuronpedia", 2),
        ("delphi", 1),
        ("pages", 4),
    ],
)
def test_a_disk_that_is_full_at_any_write_loses_nothing(
    stages: dict[str, Path], tmp_path: Path, stage: str, stride: int
) -> None:
    """`stride`: what extract writes is mostly the store's, whose every step has tests of its own."""
    shutil.copytree(stages[stage], counting := tmp_path / "counting")
    os.chdir(counting)
    with disk() as counted:
        assert strata(stage)[0] == 0
    wanted = results(counting)
    assert counted.n_writes > 5
    for write in range(1, counted.n_writes + 1, stride):
        shutil.copytree(stages[stage], work := tmp_path / str(write))
        os.chdir(work)
        with disk(full_from=write):
            code, said = strata(stage)
        assert (code, "no space left; free some" in said) == (1, True), f"write {write}: {said}"
        assert not said.startswith("writing:"), f"write {write}: which file? {said}"
        assert leavings(work) == []
        assert strata(stage)[0] == 0
        assert results(work) == wanted, f"write {write}"
        shutil.rmtree(work)


def test_a_beat_is_no_write_and_fails_on_a_full_disk(tmp_path: Path) -> None:
    """Beats come by the clock: of two equal runs one has more of them. Control: a write of the main thread."""
    failed = []

    def beat() -> None:
        try:
            os.write(descriptor, b"x")
        except OSError:
            failed.append(True)

    descriptor = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    with disk(full_from=1) as counted:
        for is_full in (False, True):
            (thread := threading.Thread(target=beat, name=THREAD)).start()
            thread.join()
            assert (bool(failed), counted.n_writes) == (is_full, int(is_full))
            with pytest.raises(OSError, match="No space"):
                os.write(descriptor, b"x")
    os.close(descriptor)


@contextmanager
def largest_file(n_bytes: int) -> Iterator[None]:
    """The kernel refuses larger files to this process (RLIMIT_FSIZE), as a full disk or a quota would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("stage", ["extract", "train", "codes", "evaluate", "report", "export"])
@pytest.mark.parametrize("n_bytes", [0, 300, 3000, 12_000, 40_000])
def test_a_file_that_may_not_grow_is_told(stages: dict[str, Path], tmp_path: Path, stage: str, n_bytes: int) -> None:
    """What the libraries themselves make of it; the disk above is only as true as its words."""
    shutil.copytree(stages[stage], work := tmp_path / "work")
    os.chdir(work)
    with largest_file(n_bytes):
        code, said = strata(stage)
    assert code == (1 if said else 0)
    if n_bytes <= 300:
        assert "larger than" in said
        assert os.strerror(errno.EFBIG) not in said
    assert strata(stage)[0] == 0
    order = ["extract", "train", "codes", "evaluate", "report", "export", "end"]
    after = order[order.index(stage) + 1]
    assert results(work) == results(stages[after])


# Every place of pipeline/ that writes to a disk, and the stage above that reaches it. `write_bytes` of the stores' file
# system is what the others are to use; each of them holds a file open, or is written by a library.
WRITERS = {
    ("trainer/shards.py", "write_tensors"): "train",
    ("trainer/session.py", "__init__"): "train",
    ("trainer/one_pass.py", "_append"): "train",
    ("tracking/to_wandb.py", "send"): "none: what a tracker raises is told, and fails no stage (tests/tracking)",
    ("engines/coordinator.py", "only_engine"): "none: a command with an engine of a cluster (tests/test_engines.py)",
    ("extractor/spool.py", "spool_documents"): "extract",
    ("export/viewers/lines.py", "write_lines"): "neuronpedia",
    ("export/viewers/lines.py", "__init__"): "neuronpedia",
    ("export/viewers/delphi.py", "_write_neighbours"): "delphi",
    ("export/viewers/parquet.py", "_write"): "none: its library opens no file; tests/export/test_viewers_folders.py",
    ("explore/static.py", "_write"): "pages",
}


def test_every_writer_is_known() -> None:
    found = set()
    for path in sorted((ROOT / "pipeline").rglob("*.py")):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef) and any(writes(call) for call in ast.walk(function)):
                found.add((str(path.relative_to(ROOT / "pipeline")), function.name))
    assert found == WRITERS.keys()


def writes(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if name == "open":
        modes = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        return any(set(mode) & set("wax+") and len(mode) <= 3 for mode in modes)
    return name in (
        "write_new",
        "save_file",
        "write_text",
        "tofile",
        "copyfile",
        "copy2",
        "copytree",
        "NamedTemporaryFile",
    )
