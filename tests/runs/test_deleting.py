"""Runs are listed and deleted: what stages write and nothing else, not while a run is written, again after any kill."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from strata_sae.pipeline.commands import arguments
from strata_sae.pipeline.commands.app import app
from strata_sae.pipeline.errors import CheckpointError, ConfigError
from strata_sae.pipeline.runs.claims import DELETING, Hold, claim_in, search_of
from strata_sae.pipeline.runs.deleting import deletable_run, deletable_variants, delete_run, delete_variants
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.pipeline.runs.listing import list_runs, runs_of_store
from strata_sae.stores.files.deletion import half_deleted
from strata_sae.stores.files.filesystem import write_bytes
from support.killed_at_a_step import KilledFileSystem, killed_before_step
from support.made_up_run import SITES, STORE_ID, VARIANTS, write_run
from support.small_store import build_store

SITE = next(iter(SITES))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_run(Path("runs") / "demo")


def strata(*arguments: str, answer: str = "") -> Result:
    return CliRunner().invoke(app, list(arguments), input=answer)


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def size_of(folder: Path) -> int:
    return sum(os.stat(path, follow_symlinks=False).st_size for path in folder.rglob("*") if path.is_file())


def test_a_run_is_a_row_of_its_records(run: Path) -> None:
    (row,) = list_runs(Path("runs"))
    best = max(VARIANTS.values(), key=lambda numbers: numbers["r2"])
    assert (row.name, row.problem) == ("demo", "")
    assert (row.begun, row.finished, row.diverged) == (2 * len(VARIANTS), 2 * len(VARIANTS) - 2, 2)
    assert row.sites == tuple(sorted(SITES))
    assert row.best == (best["r2"], best["l0"])
    assert row.n_bytes == size_of(run)
    assert row.changed == max(path.stat().st_mtime for path in run.rglob("*") if path.suffix in (".json", ".yaml"))
    assert dict(row.stores) == {STORE_ID: None}
    shown = strata("runs", "list").stdout
    assert "10/12, 2 diverged" in shown
    assert f"{best['r2']:.4f} at {best['l0']:.1f}" in shown
    assert f"{STORE_ID[:12]} (not there)" in shown


def test_the_store_of_a_run_is_found_by_its_id(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("strata_sae.pipeline.runs.listing.file_sha256", lambda path: STORE_ID)  # made-up records
    build_store(Path("data") / "rows", 400)
    (row,) = list_runs(Path("runs"))
    assert dict(row.stores) == {STORE_ID: Path("data/rows")}
    assert "data/rows" in strata("runs", "list").stdout


def test_damaged_records_half_deleted_runs_and_other_folders(run: Path) -> None:
    (run / "variants" / f"topk@{SITE}" / "config.json").write_text("{}")
    killed = write_run(Path("runs") / "old")
    killed_before_step(2, lambda files: delete_run(killed, files))
    (Path("runs") / "notes").mkdir()
    (Path("runs") / "notes" / "a.txt").write_text("mine")
    demo, old = list_runs(Path("runs"))
    assert f"topk@{SITE}/config.json" in demo.problem
    assert demo.begun == 2 * len(VARIANTS)
    assert demo.finished == 2 * len(VARIANTS) - 3
    assert (old.name, old.problem) == ("old", "half deleted; runs delete runs/old removes the rest")
    assert strata("runs", "list", "nowhere").exit_code == 2


def test_a_run_is_deleted_whole_and_its_neighbours_stay(run: Path) -> None:
    write_run(Path("runs") / "demo2")
    before = names(Path("runs") / "demo2")
    (run / "variants" / f"topk@{SITE}" / "checkpoints" / "step_00000010").mkdir(parents=True)
    (run / "variants" / f"topk@{SITE}" / "checkpoints" / "step_00000010" / "state.safetensors").write_bytes(b"x")
    (run / ".staged-report.html-0123").write_text("half")
    kept = run / "variants" / f"topk@{SITE}" / "checkpoints" / "kept_00000010"
    for file in ("weights.safetensors", "training.json", ".staged-weights.safetensors-0123"):
        write_bytes(kept / file, b"x")
    for file in (f"{SITE}.safetensors", f".staged-{SITE}.safetensors-0123"):
        write_bytes(run / "documents" / file, b"x")
    for file in (
        "answers/1234.jsonl",
        "answers/.staged-1234.jsonl-0123",
        "hypotheses/rating.csv",
        "hypotheses/a/b.html",
    ):
        write_bytes(run / file, b"x")
    for file in ("interpretation.json", "interpretations.csv", "published.json", "ablations/a/part-0.safetensors"):
        write_bytes(run / "variants" / f"topk@{SITE}" / file, b"x")
    done = strata("runs", "delete", str(run), "--yes")
    assert done.exit_code == 0, done.stderr
    assert re.search(r"runs/demo: [\d,]+ files, [\d,]+ bytes\n", done.stdout)
    assert [path.name for path in Path("runs").iterdir()] == ["demo2"]
    assert names(Path("runs") / "demo2") == before


@pytest.mark.parametrize(("name", "n"), [("topk", 2), (f"topk@{SITE}", 1)])
def test_a_variant_is_deleted_and_the_others_stay(run: Path, name: str, n: int) -> None:
    before = {path.name for path in (run / "variants").iterdir()}
    assert len(deletable_variants(run, name)) == n
    assert strata("runs", "delete", str(run), name, "--yes").exit_code == 0
    gone = before - {path.name for path in (run / "variants").iterdir()}
    assert gone == {f"topk@{site}" for site in list(SITES)[:n]}
    assert RunFolder(run).config.exists()


def test_nothing_is_deleted_unless_a_person_or_a_script_says_so(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = names(run)
    refused = strata("runs", "delete", str(run), answer="y\n")
    assert (refused.exit_code, "--yes: is needed here" in refused.stderr) == (2, True)

    class Terminal:
        def __getattr__(self, name: str) -> object:
            return (lambda: True) if name == "isatty" else getattr(arguments.sys.__stdin__, name)

    answers = iter(["n", "y"])
    monkeypatch.setattr(arguments.sys, "stdin", Terminal())
    monkeypatch.setattr("typer.confirm", lambda text, abort: next(answers) == "y" or _abort())
    with pytest.raises(InterruptedError):
        arguments.ask_to_delete([run], yes=False)
    assert names(run) == before
    arguments.ask_to_delete([run], yes=False)


def _abort() -> bool:
    raise InterruptedError


def add_file(run: Path) -> str:
    (run / "variants" / f"topk@{SITE}" / "thesis.tex").write_text("mine")
    return rf"variants/topk@{SITE}/thesis.tex"


def add_folder(run: Path) -> str:
    (run / "figures").mkdir()
    return "figures/"


def add_link(run: Path) -> str:
    Path("elsewhere").mkdir()
    (Path("elsewhere") / "kept").write_text("mine")
    (run / "loader").symlink_to(Path("elsewhere").resolve())
    return r"loader \(a link\)"


def add_to_answers(run: Path) -> str:
    write_bytes(run / "answers" / "notes.txt", b"mine")
    return r"answers/notes.txt"


@pytest.mark.parametrize("add", [add_file, add_folder, add_link, add_to_answers])
def test_what_no_stage_writes_is_named_and_nothing_is_deleted(run: Path, add: Callable[[Path], str]) -> None:
    said = add(run)
    before = names(Path())
    with pytest.raises(CheckpointError, match=f"did not make there; move it elsewhere first:\n  {said}"):
        delete_run(run)
    assert names(Path()) == before


def hold(run: Path, name: str) -> Hold:
    """What a process that works on it holds."""
    held = claim_in(RunFolder(run), name)
    assert held is not None
    return held


@pytest.mark.parametrize("name", [f"topk@{SITE}", search_of(f"topk@{SITE}")])
def test_a_run_that_is_written_is_refused(run: Path, name: str) -> None:
    before = names(run)
    with hold(run, name):
        for refused in (lambda: delete_run(run), lambda: deletable_run(run), lambda: delete_variants(run, "topk")):
            with pytest.raises(CheckpointError, match=f"another process is writing this run: {name}; wait for it"):
                refused()
        assert names(run) == sorted([*before, "claims", f"claims/{name}.lock"])
        (found,) = runs_of_store(STORE_ID, [Path("runs")])
        assert (found.n_saes, found.is_written) == (2 * len(VARIANTS), True)
    assert names(run) == before
    assert [found.is_written for found in runs_of_store(STORE_ID, [Path("runs")])] == [False]
    assert runs_of_store("00" * 32, [Path("runs")]) == []
    killed_before_step(1, lambda files: delete_run(run, files))
    assert half_deleted(Path("runs"))
    assert runs_of_store(STORE_ID, [Path("runs")]) == [], "what a deletion left needs no store"


def test_a_variant_is_deleted_while_another_one_is_trained(run: Path) -> None:
    with hold(run, f"matryoshka@{SITE}"):
        delete_variants(run, "topk")
        with pytest.raises(CheckpointError, match=f"matryoshka@{SITE}; wait for it"):
            delete_run(run)
    assert not list(run.glob("variants/topk@*"))
    assert not (run / "claims").exists()


def test_while_a_run_is_deleted_nobody_begins_in_it(run: Path) -> None:
    with hold(run, DELETING), pytest.raises(CheckpointError, match="another process is deleting this run"):
        claim_in(RunFolder(run), f"topk@{SITE}")
    assert not (run / "claims").exists()
    with hold(run, DELETING), pytest.raises(CheckpointError, match="is writing this run: deleting"):
        delete_run(run)
    (run / "claims").mkdir()
    (run / "claims" / f"topk@{SITE}.lock").touch()  # of a process that was killed
    (run / "claims" / f"topk@{SITE}.lock.0123456789ab.seized").touch()  # of one that was killed while it took that over
    delete_run(run)
    assert not run.exists()


def test_bad_names_are_told(run: Path) -> None:
    Path("link").symlink_to(run)
    Path("folder").mkdir()
    for path, said in [("link", "is a link"), ("folder", "holds no run"), ("gone", "no such folder")]:
        with pytest.raises(CheckpointError, match=said):
            delete_run(Path(path))
    with pytest.MonkeyPatch.context() as inside:
        inside.chdir(run)
        with pytest.raises(CheckpointError, match="does not end in the folder's own name"):
            delete_run(Path("."))
    with pytest.raises(CheckpointError, match="did you mean runs/demo"):
        delete_run(Path("demo"))
    with pytest.raises(ConfigError, match="VARIANT: runs/demo has no 'topp'; did you mean 'topk'"):
        delete_variants(run, "topp")
    with pytest.raises(CheckpointError, match="holds no run"):
        delete_variants(Path("folder"), "topk")


@pytest.mark.parametrize("variant", [None, "topk"])
def test_after_a_kill_at_any_step_the_rest_is_known_and_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variant: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("support.made_up_run.VARIANTS", {name: VARIANTS[name] for name in ("topk", "matryoshka")})
    sites = {SITE: 576}

    def delete(run: Path, files: KilledFileSystem) -> None:
        if variant is None:
            delete_run(run, files)
        else:
            delete_variants(run, variant, files)

    counted = KilledFileSystem()
    delete(write_run(Path("counted") / "a", sites=sites), counted)
    for step in range(1, counted.steps):
        root = Path(str(step))
        run = write_run(root / "a", sites=sites)
        others = names(run / "variants" / f"matryoshka@{SITE}")
        killed_before_step(step, lambda files, run=run: delete(run, files))
        if variant is None:
            assert [row.problem[:12] for row in list_runs(root)] == ["half deleted"]
            assert not run.exists()
            assert len(deletable_run(run)) == 1
        else:
            assert [was for was, _ in half_deleted(run)] == [f"topk@{SITE}"]
            assert [folder.name for folder in (run / "variants").iterdir()] == [f"matryoshka@{SITE}"]
        delete(run, KilledFileSystem())
        assert [row.name for row in list_runs(root)] == ([] if variant is None else ["a"])
        if variant is not None:
            assert names(run / "variants" / f"matryoshka@{SITE}") == others
            assert half_deleted(run) == []


def test_a_store_that_runs_refer_to_needs_force(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = build_store(Path("data") / "rows", 400)
    monkeypatch.setattr("strata_sae.stores.front.deleting.file_sha256", lambda path: STORE_ID)  # made-up records
    refused = strata("store", "delete", str(store), "--yes")
    assert refused.exit_code == 1
    assert f"runs/demo ({2 * len(VARIANTS)} SAEs)" in refused.stderr
    with hold(run, f"topk@{SITE}"):
        used = strata("store", "delete", str(store), "--yes", "--force")
        assert (used.exit_code, "which is being written now" in used.stderr) == (1, True)
    assert store.exists()
    assert strata("store", "delete", str(store), "--force").exit_code == 2, "--force does not answer the question"
    assert strata("store", "delete", str(store), "--yes", "--force").exit_code == 0
    assert not store.exists()


def test_a_store_without_runs_needs_no_force(run: Path) -> None:
    store = build_store(Path("data") / "rows", 400)
    done = strata("store", "delete", str(store), "--yes")
    assert (done.exit_code, store.exists()) == (0, False)
    assert "data/rows: deleted" in done.stdout
