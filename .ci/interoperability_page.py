"""docs/interoperability.md: its tables, made by trying every architecture in every format, and back.

    .venv/bin/python .ci/interoperability_page.py    # tests/test_interoperability_page.py says if it is old

The prose around the tables stands in the page itself and is kept.
"""

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402

from strata_sae.pipeline.errors import CheckpointError  # noqa: E402
from strata_sae.pipeline.formats import FORMATS  # noqa: E402
from strata_sae.pipeline.formats.foreign import DoesNotFit, Handed  # noqa: E402
from support.foreign_folders import write_gemma_scope, write_llama_scope  # noqa: E402
from support.handed_saes import LATENTS, ROUTES, SETTINGS, WIDTH, WRITES, handed, made, transcoder, weights  # noqa: E402

PAGE = ROOT / "docs/interoperability.md"
CONFIGS = {"saelens": "cfg.json", "dictionary_learning": "config.json", "sparsify": "cfg.json"}
BREAKS: dict[str, list[tuple[str, str, object]]] = {
    "saelens": [
        *(("topk", "architecture", name) for name in ("skip_transcoder", "abstopk", "matching_pursuit", "temporal")),
        *(("topk", "architecture", name) for name in ("batchtopk", "matryoshka_batchtopk")),
        ("topk", "normalize_activations", "expected_average_only_in"),
        ("topk", "reshape_activations", "hook_z"),
        ("topk", "k", None),
    ],
    "sparsify": [("topk", "signed", True), ("topk", "skip_connection", True), ("topk", "activation", "other")],
}
"""What is changed in the config of an export, so that it is read no more: of which SAE, key, value; None: gone."""


class Tried(NamedTuple):
    """What a writer made of an SAE."""

    their_class: str | None
    why_not: str | None


def given() -> Iterator[tuple[str, Handed]]:
    """Every kind of SAE, and every kind of transcoder."""
    yield from ((name, handed(made(name))) for name in SETTINGS)
    yield from ((f"{name}, a transcoder", handed(transcoder(name), WRITES)) for name in ROUTES)


def tried(format: str, sae: Handed) -> Tried:
    """Write it, and see by what name it stands there."""
    write = FORMATS[format].write
    assert write is not None
    with tempfile.TemporaryDirectory() as name:
        try:
            write(sae, Path(name))
        except DoesNotFit as error:
            return Tried(None, str(error).removeprefix(f"{sae.name}: "))
        return Tried(their_class(format, Path(name)), None)


def their_class(format: str, folder: Path) -> str:
    """What an SAE is called in the files of a format."""
    if format not in CONFIGS:
        return (
            "JumpReLU" if format == "gemma_scope" else json.loads((folder / "hyperparams.json").read_text())["act_fn"]
        )
    config = json.loads((folder / CONFIGS[format]).read_text(encoding="utf-8"))
    if format == "sparsify":
        return config["activation"] + (", transcode" if config["transcode"] else "")
    return str(config["architecture"] if format == "saelens" else config["trainer"]["dict_class"])


def export_table() -> str:
    """A row for each kind of SAE, a column for each format that is written, and why something does not fit."""
    formats = [name for name, format in FORMATS.items() if format.write is not None]
    reasons: list[str] = []
    lines = ["| ours | " + " | ".join(formats) + " |", "|---" * (len(formats) + 1) + "|"]
    for name, sae in given():
        cells = []
        for found in (tried(format, sae) for format in formats):
            if found.why_not is not None and found.why_not not in reasons:
                reasons.append(found.why_not)
            cells.append(
                f"`{found.their_class}`" if found.why_not is None else f"no ({reasons.index(found.why_not) + 1})"
            )
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *(f"{number}. {reason}" for number, reason in enumerate(reasons, 1))])


def matryoshka(folder: Path) -> None:
    """dictionary_learning's class that no architecture here is written as."""
    drawn = weights(WIDTH, WIDTH, LATENTS)
    tensors = {"W_enc": drawn["W_enc"].T.contiguous(), "b_enc": drawn["b_enc"], "W_dec": drawn["W_dec"]}
    tensors |= {"b_dec": drawn["b_dec"], "k": torch.tensor(8), "threshold": torch.tensor(1.0)}
    torch.save(tensors | {"group_sizes": torch.tensor([LATENTS // 4, LATENTS - LATENTS // 4])}, folder / "ae.pt")
    config = {"trainer": {"dict_class": "MatryoshkaBatchTopKSAE", "k": 8}}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def folders(format: str, root: Path) -> Iterator[Path]:
    """A folder of every class of a format that can be made here."""
    others: dict[str, Callable[[Path], object]] = {
        "gemma_scope": write_gemma_scope, "llama_scope": write_llama_scope, "dictionary_learning": matryoshka
    }  # fmt: skip
    write = FORMATS[format].write
    for number, (_, sae) in enumerate(given() if write is not None else ()):
        (folder := root / str(number)).mkdir()
        try:
            assert write is not None
            write(sae, folder)
        except DoesNotFit:
            continue
        yield folder
    if format in others:
        (folder := root / "other").mkdir()
        others[format](folder)
        yield folder


def import_table() -> str:
    """A row for each class that is read, and what it becomes."""
    lines = ["| format | files | its class | ours |", "|---|---|---|---|"]
    for name, format in FORMATS.items():
        with tempfile.TemporaryDirectory() as root:
            found: dict[str, str] = {}
            for folder in folders(name, Path(root)):
                assert format.read is not None
                found[their_class(name, folder)] = format.read(folder).sae.settings.architecture
        files = " and ".join(f"`{file}`" for file in format.files)
        lines += [f"| `{name}` | {files} | `{theirs}` | {ours} |" for theirs, ours in sorted(found.items())]
    return "\n".join(lines)


def refusals() -> str:
    """What is changed in a file, and the line in which it is refused."""
    lines = ["| format | in its config | refused with |", "|---|---|---|"]
    for name, breaks in BREAKS.items():
        for sae, key, value in breaks:
            with tempfile.TemporaryDirectory() as root:
                folder = Path(root)
                write, read = FORMATS[name].write, FORMATS[name].read
                assert write is not None
                assert read is not None
                write(handed(made(sae)), folder)
                path = folder / CONFIGS[name]
                config = json.loads(path.read_text(encoding="utf-8"))
                config = {k: v for k, v in (config | {key: value}).items() if v is not None}
                path.write_text(json.dumps(config), encoding="utf-8")
                try:
                    read(folder)
                except CheckpointError as error:
                    said = str(error).replace(f"{path}: ", "").replace(f"{folder}/", "")
                else:
                    sys.exit(f"{name}: {key}: {value} is read, so the page would be wrong")
            shown = f"without `{key}`" if value is None else f"`{key}: {json.dumps(value)}`"
            lines.append(f"| `{name}` | {shown} | {said} |")
    return "\n".join(lines)


def page(text: str) -> str:
    """The page with its tables made anew, each between its two comments."""
    for name, made_anew in (("export", export_table), ("import", import_table), ("refusals", refusals)):
        begin, end = f"<!-- {name}: made by .ci/interoperability_page.py -->\n", f"\n<!-- end of {name} -->"
        if begin not in text or end not in text:
            sys.exit(f"{PAGE}: the comments around the table {name!r} are missing")
        before, _, rest = text.partition(begin)
        text = before + begin + made_anew() + end + rest.partition(end)[2]
    return text


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
