"""The demo, as a newcomer runs it: page and scores are as they should be, and a second run finds everything finished.

.venv/bin/python .ci/demo.py
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from support.golden import another_text, differences, summary  # noqa: E402

RUN, STORE = ROOT / "runs/demo", ROOT / "data/demo"
RESULTS = ("weights.safetensors", "metrics.json", "examples.json", "curves.jsonl")


def written() -> dict[Path, int]:
    """When each file of results and of the store was written."""
    files = [file for name in RESULTS for file in RUN.glob(f"variants/*/{name}")]
    return {file: file.stat().st_mtime_ns for file in [*files, *filter(Path.is_file, STORE.rglob("*"))]}


def main() -> None:
    """SystemExit: what is not as it should be."""
    subprocess.run(["make", "demo"], cwd=ROOT, check=True, stdin=subprocess.DEVNULL)
    first = written()
    n_saes = len(list(RUN.glob("variants/*/metrics.json")))
    if n_saes != 12:
        sys.exit(f"{RUN}: {n_saes} SAEs have scores; the demo trains 12")
    page = RUN / "report.html"
    if not page.is_file() or "blocks.14.hook_resid_post" not in page.read_text(encoding="utf-8"):
        sys.exit(f"{page}: missing, or does not name the demo's sites")
    golden = json.loads((ROOT / "tests/golden/demo.json").read_text(encoding="utf-8"))
    found = summary(RUN, STORE)
    if wrong := differences(golden, found) if (why := another_text(golden, found)) is None else []:
        sys.exit("scores and weights are not those of tests/golden/demo.json:\n" + "\n".join(wrong))
    how = why or ("equal bits" if golden["machine"] == found["machine"] else "within the tolerance of another machine")
    print(f"tests/golden/demo.json: {how}")
    subprocess.run(["make", "demo"], cwd=ROOT, check=True, stdin=subprocess.DEVNULL)
    if again := sorted(str(file) for file in first.keys() ^ written().keys()):
        sys.exit(f"a second run left other files: {', '.join(again)}")
    if again := sorted(str(file) for file, at in written().items() if first[file] != at):
        sys.exit(f"a second run wrote again what was finished: {', '.join(again)}")
    print(f"{n_saes} SAEs; {page} is there; a second run wrote none of {len(first)} files again")
    explore()


def explore() -> None:
    """The commands of README's section Explore, on one SAE. SystemExit: what is not as it should be."""
    sae = "runs/demo/topk@blocks.8.hook_resid_post"
    with tempfile.TemporaryDirectory() as folder:
        pages = Path(folder) / "pages"
        for arguments in (
            ["codes", sae],
            ["analyze", sae, "pairs"],
            ["explore", "runs/demo", "--export", str(pages), "--latents", "2"],
        ):
            command = [sys.executable, "run_pipeline.py", *arguments]
            subprocess.run(command, cwd=ROOT, check=True, stdin=subprocess.DEVNULL)
        n_pages = len(list(pages.rglob("*.html")))
    labels = RUN / "variants" / Path(sae).name / "token_labels.json"
    label = json.loads(labels.read_text(encoding="utf-8"))["metrics"]["token_f1"]["value"]
    if n_pages < 4 or not 0.5 < label < 0.8:
        sys.exit(f"{sae}: {n_pages} pages, token_f1 {label}; docs/log.md says what the demo has")
    print(f"{sae}: token_f1 {label:.3f}; {n_pages} pages exported")


if __name__ == "__main__":
    main()
