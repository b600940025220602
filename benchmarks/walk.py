"""How many files a reader opens who follows the code: those that execute a line between here and there.

    python benchmarks/walk.py [--files] [--against DIR]

Three walks through configs/smoke.yaml, each a command in a process of its own, in a fresh folder: a row from its shard
to a weight (`train --only topk`, from `Batches.batch(0)` to the end of the first update), and the config through all of
`extract` and of `train`. Counted are files of pipeline/ and stores/ and run_pipeline.py; benchmarks/walk_trace.py says
what a line is. --files lists them in the order of their first line. --against DIR counts in another checkout, too, each
by its own smoke.yaml, and prints the ratios; exit code 1 if one is above 0.65. At full size a walk begins with an empty
cache, at toy size with this user's.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.toy import sized

ROOT = Path(__file__).resolve().parents[1]
TRACER = Path(__file__).resolve().with_name("walk_trace.py")
REQUIRED = 0.65
EMPTY_CACHE = sized(True, False)
"""Converting the model and compiling loops take most of the time, and run the same files as finding them done."""


class Walk(NamedTuple):
    """A command, and the part of it that is counted; no words: all."""

    command: str
    only: tuple[str, ...] = ()
    begin: str = ""
    end: str = ""


WALKS = {
    "config: extract": Walk("extract"),
    "config: train": Walk("train"),
    "row: shard -> weight": Walk("train", ("--only", "topk"), "Batches.batch", "Trainee.update"),
}
"""In an order in which each finds what it reads."""


def walked(checkout: Path) -> dict[str, list[str]]:
    """The files of every walk through a checkout, in the order of their first line."""
    with tempfile.TemporaryDirectory(prefix="strata-walk-") as folder:
        return {name: files(checkout, walk, Path(folder)) for name, walk in WALKS.items()}


def files(checkout: Path, walk: Walk, folder: Path) -> list[str]:
    """The files of one walk. SystemExit: the command fails, or nothing is counted."""
    noted = folder / "noted"
    noted.unlink(missing_ok=True)
    shutil.rmtree(folder / "runs", ignore_errors=True)
    config = checkout / "configs/smoke.yaml"
    command = [str(TRACER), str(checkout), str(noted), walk.begin, walk.end, walk.command, str(config), *walk.only]
    cache = {"XDG_CACHE_HOME": str(folder / "cache"), "NUMBA_CACHE_DIR": str(folder / "cache")} if EMPTY_CACHE else {}
    done = subprocess.run(
        [sys.executable, "-P", *command],  # -P: names of the tracer's folder are not to hide others
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(checkout), **cache},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    found = list(dict.fromkeys(noted.read_text(encoding="utf-8").splitlines()))
    if done.returncode or not found:
        sys.exit(f"{checkout}: {walk}: exit code {done.returncode}, {len(found)} files\n{done.stdout}")
    return found


def table(ours: dict[str, list[str]], theirs: dict[str, list[str]] | None) -> list[str]:
    """A line for each walk."""
    lines = [f"{'walk':<22}{'files':>6}" + (f"{'against':>9}{'ratio':>7}{'at most':>9}" if theirs else "")]
    for name, found in ours.items():
        line = f"{name:<22}{len(found):>6}"
        if theirs:
            line += f"{len(theirs[name]):>9}{len(found) / len(theirs[name]):>7.2f}{REQUIRED:>9.2f}"
        lines.append(line)
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", action="store_true", help="list the files of every walk")
    parser.add_argument("--against", metavar="DIR", type=Path, help="another checkout, of an older commit")
    arguments = parser.parse_args()
    ours = walked(ROOT)
    theirs = walked(arguments.against.resolve()) if arguments.against else None
    print("\n".join(table(ours, theirs)))
    for name, found in ours.items() if arguments.files else ():
        print(f"\n{name}", *found, sep="\n    ")
    return int(any(len(ours[name]) > REQUIRED * len(found) for name, found in (theirs or {}).items()))


if __name__ == "__main__":
    sys.exit(main())
