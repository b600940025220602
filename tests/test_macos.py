"""What only Linux has is nowhere needed: a run ends with the same bits in a process from which it was taken away."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from strata_sae.pipeline import available
from strata_sae.pipeline.config import RunConfig
from strata_sae.pipeline.trainer.train import train
from support.as_on_macos import NOT_ON_MACOS, PLACES
from support.small_run import ALL, run_data, store_for_training
from support.trained_run import hashes

ROOT = Path(__file__).parents[1]
SUPPORT = ROOT / "tests" / "support"


def test_training_scoring_and_reporting_need_nothing_that_macos_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_for_training(tmp_path / "store")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(SUPPORT.parent)])}
    done = subprocess.run(
        [sys.executable, SUPPORT / "as_on_macos.py", store],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "False False\n"), done.stderr[-3000:]
    monkeypatch.chdir(tmp_path)
    train(RunConfig.model_validate(run_data(store, ALL, "here", n_steps=12)), show_progress=False)
    for name in ("plain", "shared"):
        assert hashes(Path("runs") / name) == hashes(Path("runs/here"))
        assert (tmp_path / "runs" / name / "report.html").is_file()


def test_control_what_was_taken_away_is_really_missed(tmp_path: Path) -> None:
    program = (
        "import os, as_on_macos; as_on_macos.take_away()\n"
        "for use in (lambda: os.posix_fallocate(0, 0, 1), lambda: open('/proc/meminfo')):\n"
        "    try: use()\n"
        "    except (AttributeError, FileNotFoundError) as error: print(type(error).__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=SUPPORT, capture_output=True, text=True)
    assert done.stdout.split() == ["AttributeError", "FileNotFoundError"], done.stderr


GUARDED = {
    "os.posix_fadvise", "os.POSIX_FADV_WILLNEED", "os.posix_fallocate", "mmap.MADV_HUGEPAGE", "signal.sigwaitinfo",
    "os.sched_getaffinity",
}  # fmt: skip
"""What the packages use that macOS lacks: each where it is there, or on Linux alone, with another way beside it."""


def nodes() -> Iterator[ast.AST]:
    for path in [*ROOT.glob("stores/**/*.py"), *ROOT.glob("pipeline/**/*.py"), ROOT / "run_pipeline.py"]:
        yield from ast.walk(ast.parse(path.read_text()))


def test_every_linux_only_name_in_the_packages_is_known_here() -> None:
    lacking = {f"{module.__name__}.{name}" for module, names in NOT_ON_MACOS.items() for name in names}
    used = {f"{n.value.id}.{n.attr}" for n in nodes() if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)}
    used |= {f"{n.module}.{alias.name}" for n in nodes() if isinstance(n, ast.ImportFrom) for alias in n.names}
    assert used & lacking == GUARDED


def test_every_folder_of_the_system_in_the_packages_is_hidden_here() -> None:
    texts = {n.value for n in nodes() if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    found = {text for text in texts if text.startswith(("/proc", "/sys", "/dev", "/run", "/etc"))}
    assert found
    assert all(text.startswith(PLACES) for text in found), found


@pytest.mark.parametrize("text", ["", "MemAvailable", "MemAvailable: x kB\n", "MemAvailable: kB\n", None])
def test_memory_is_known_without_the_words_of_linux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None):
    device = torch.device("cpu")
    total = available.total_bytes(device)
    monkeypatch.setattr(available, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(available, "_GROUP", tmp_path)
    if text is not None:
        (tmp_path / "meminfo").write_text(text)
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert available.free_bytes(device) == physical // 2
    assert available.total_bytes(device) == physical
    assert total > 0
    monkeypatch.setattr(
        os, "sysconf", lambda name: (_ for _ in ()).throw(ValueError("unrecognized configuration name"))
    )
    assert available.total_bytes(device) == available.UNKNOWN_BYTES


@pytest.mark.parametrize(
    ("limit", "used", "free"), [("max", "5", 1024), ("600", "200", 400), ("600", "700", 0), ("x", "1", 1024)]
)
def test_a_control_group_limits_what_is_free(tmp_path, monkeypatch, limit, used, free):
    (tmp_path / "meminfo").write_text("MemTotal: 2 kB\nMemAvailable: 1 kB\n")
    (tmp_path / "memory.max").write_text(limit + "\n")
    (tmp_path / "memory.current").write_text(used + "\n")
    monkeypatch.setattr(available, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(available, "_GROUP", tmp_path)
    assert available.free_bytes(torch.device("cpu")) == free
