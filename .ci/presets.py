"""Every preset in small, as a user runs it: each SAE has scores and stands in the report; then the seconds of each.

.venv/bin/python .ci/presets.py
"""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from strata_sae.pipeline.config import load  # noqa: E402

LIMIT_SECONDS = 60
"""What each may take on two idle cores: a reader waits for it. Beyond it this script warns, as lots do."""


def strata(*arguments: str) -> None:
    """One command. SystemExit: it failed."""
    done = subprocess.run(
        [sys.executable, "run_pipeline.py", "--quiet", *arguments], cwd=ROOT, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        sys.exit(f"strata {' '.join(arguments)}: exit code {done.returncode}")


def run(file: Path) -> int:
    """Make the store, train, score and report one preset. Returns: its SAEs. SystemExit: one is not as it should be."""
    config = load(file)
    folder = ROOT / config.run_path()
    shutil.rmtree(folder, ignore_errors=True)  # an older version's SAEs would count as finished
    strata("run", str(file))
    scored = sorted(folder.glob("variants/*/metrics.json"))
    missing = set(config.variants) - {path.parent.name.partition("@")[0] for path in scored}
    if missing:
        sys.exit(f"{file}: no scores of {', '.join(sorted(missing))}")
    ends = {path.parent.name: json.loads((path.parent / "training.json").read_text())["status"] for path in scored}
    if diverged := [name for name, status in ends.items() if status != "finished"]:
        sys.exit(f"{file}: diverged: {', '.join(diverged)}")
    page = (folder / "report.html").read_text(encoding="utf-8")
    if absent := [name for name in config.variants if name not in page]:
        sys.exit(f"{folder / 'report.html'}: does not name {', '.join(absent)}")
    return len(scored)


def main() -> None:
    """SystemExit: what is not as it should be."""
    for folder in (ROOT / "data").glob("small_*"):
        shutil.rmtree(folder)
    for file in sorted((ROOT / "configs/presets").glob("*-small.yaml")):
        began = time.monotonic()
        n_saes = run(file.relative_to(ROOT))
        seconds = time.monotonic() - began
        over = f"  WARNING: over {LIMIT_SECONDS} s" if seconds > LIMIT_SECONDS else ""
        print(f"{file.stem:<36}{n_saes:4} SAEs  {seconds:5.1f} s{over}", flush=True)


if __name__ == "__main__":
    main()
