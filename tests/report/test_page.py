"""What the page says, that it holds together when files are missing, and that it needs nothing from outside."""

import base64
import csv
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.pages.text import show
from strata_sae.pipeline.report.facts import variant_facts
from strata_sae.pipeline.report.page import write_report
from strata_sae.pipeline.report.run_data import Run, Trained
from support.made_up_records import sae_record
from support.made_up_run import METRICS, SITES, VARIANTS, write_run
from support.page_parser import Page
from support.sealing import edit, seal


def sha256(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_the_statement_says_what_happened(run_folder):
    text = Page(write_report(run_folder, "A run")).text
    assert (
        "The language model SmolLM2-135M-Instruct was run once over 1 048 576 tokens; "
        "its activations at two sites were stored." in " ".join(text.replace("\N{NARROW NO-BREAK SPACE}", " ").split())
    )
    assert "10 of 12 finished" in text
    assert "Training diverged and was stopped for topk-hot" in text
    assert "441 documents that were not used in training" in text
    assert "Which differences are more than noise was not measured, so none is ranked." in text


def described(**saes: dict[str, Any]) -> list[tuple[str, str]]:
    """What the page says of variants with these settings of their SAEs."""
    usual = {"architecture": "topk", "d_sae": 64, "k": 4, "pre_bias": True, "initial": {"b_dec": "zero"}}
    trained = [
        Trained(name, "site", sae_record(name, "site", usual | settings, d_out=4), None, None, None, [])
        for name, settings in saes.items()
    ]
    return variant_facts(Run("run", {"variants": dict.fromkeys(saes)}, None, None, trained))


def test_a_variant_is_described_by_what_tells_it_from_the_others():
    assert described(plain={}, other={"pre_bias": False, "k": {"start": 8, "end": 4.0}}) == [
        ("plain", "topk · 64 latents · k 4, pre_bias True · reconstruction"),
        ("other", "topk · 64 latents · k 8 → 4, pre_bias False · reconstruction"),
    ]
    assert described(plain={"initial": {"b_dec": "mean"}}) == [("plain", "topk · 64 latents · k 4 · reconstruction")]


def test_a_site_that_a_few_rows_decide_has_a_warning(run_folder):
    assert "of the squared norm" not in Page(write_report(run_folder)).text
    for path in run_folder.glob("variants/*@blocks.20.hook_resid_post/metrics.json"):
        edit(path, {"top_percent_square_share": 0.99})
    text = Page(write_report(run_folder)).text
    assert text.count("1 % of the scored rows carry 99 % of the squared norm here") == 1
    assert "R² at blocks.20.hook_resid_post depends mostly on a few rows" in text


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (32.0, "latents per row", "32.0"),
        (2.4876, "latents per row", "2.5"),
        (0.99801, "fraction of variance", "0.9980"),
        (1.0, "ratio", "1.000"),
        (1970.0, "latents", "1\N{NARROW NO-BREAK SPACE}970"),
        (0.0081234, "fraction of rows", "0.00812"),
        (20.71, "squared model units", "20.7"),
        (123456.7, "squared model units", "123\N{NARROW NO-BREAK SPACE}457"),
        (None, "cosine", "\N{EN DASH}"),
    ],
)
def test_numbers_have_the_digits_of_their_unit(value, unit, shown):
    assert show(value, unit) == shown


def test_every_metric_is_defined_on_the_page(run_folder):
    text = Page(write_report(run_folder)).text
    for name, (unit, _) in METRICS.items():
        assert name in text, name
        assert unit in text
    assert "‖E x‖²" in text  # signs, not ASCII


def test_sites_and_variants_are_in_the_order_of_the_config(run_folder):
    page = Page(write_report(run_folder))
    chips = [a["data-variant"] for _, a in page.elements if a.get("class") == "chip"]
    assert chips == list(VARIANTS)
    panels = [a["data-site"] for _, a in page.elements if a.get("data-figure") == "frontier" and "data-small" not in a]
    assert panels == list(SITES)


def test_a_variant_has_one_colour_everywhere(run_folder):
    source = write_report(run_folder).read_text(encoding="utf-8")
    for index, name in enumerate(VARIANTS):
        marks = re.findall(rf'<span class="mark (c\d)"></span>{name}[ <\n]', source)
        assert len(marks) >= 5
        assert set(marks) == {f"c{index}"}


def test_a_diverged_variant_is_shown_as_such(run_folder):
    page = Page(write_report(run_folder))
    assert "diverged at step 1" in page.text
    assert "Not in this run folder" not in page.text  # scores that cannot exist are not missing


def test_the_page_needs_nothing_from_outside(run_folder):
    page = Page(write_report(run_folder))
    links = [
        (tag, a[key]) for tag, a in page.elements for key in ("src", "href", "action", "data", "srcset") if key in a
    ]
    assert links
    assert all(tag == "a" and target.startswith("#") for tag, target in links)
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert {target.removeprefix("#") for _, target in links} <= set(ids)
    assert len(ids) == len(set(ids))
    assert not any(tag in ("link", "iframe", "object", "embed", "base", "form") for tag, _ in page.elements)


def test_the_content_security_policy_names_exactly_these_scripts_and_styles(run_folder):
    page = Page(write_report(run_folder))
    policy = page.policy()
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert policy["img-src"] == "data:"
    scripts = [text for tag, attrs, text in page.raw if tag == "script" and attrs.get("type") != "application/json"]
    styles = [text for tag, _, text in page.raw if tag == "style"]
    assert policy["script-src"].split() == [sha256(text) for text in scripts]
    assert policy["style-src"].split() == [sha256(text) for text in styles]
    assert not any(key.startswith("on") or key == "style" for _, attrs in page.elements for key in attrs)


def test_the_figures_data_is_json_with_what_was_measured(run_folder):
    page = Page(write_report(run_folder))
    (data,) = [json.loads(text) for _, attrs, text in page.raw if attrs.get("type") == "application/json"]
    assert list(data["sites"]) == list(SITES)
    topk = data["sites"]["blocks.9.hook_resid_post"]["topk"]
    assert topk["r2"] == VARIANTS["topk"]["r2"]
    assert len(topk["curves"]["batch_r2"]["step"]) <= 400
    assert topk["curves"]["batch_r2"]["step"][-1] == 6000
    assert len(topk["curves"]["decoder_max_cosine_mean"]["step"]) == 21  # logged rarely, none lost by thinning
    assert data["sites"]["blocks.9.hook_resid_post"]["topk-hot"]["diverged_at_step"] == 1262


def test_results_csv_has_every_metric_with_its_unit(run_folder):
    write_report(run_folder)
    with open(run_folder / "results.csv", encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(SITES) * len(VARIANTS)
    for name, (unit, _) in METRICS.items():
        assert f"{name} [{unit}]" in lines[0]
    topk = next(line for line in lines if (line["variant"], line["site"]) == ("topk", "blocks.9.hook_resid_post"))
    assert float(topk["r2_pooled [fraction of variance]"]) == 0.871
    assert topk["d_sae"] == "4096"
    hot = next(line for line in lines if line["variant"] == "topk-hot")
    assert hot["status"] == "diverged"
    assert hot["l0 [latents per row]"] == ""


REMOVED = ("metrics.json", "examples.json", "training.json", "curves.jsonl", "config.json")


@pytest.mark.parametrize(
    "name", ["store.json", "config.yaml", "environment.json", *(f"v/{name}" for name in REMOVED[:4])]
)
@pytest.mark.parametrize("how", ["absent", "damaged"])
def test_what_is_missing_is_said_and_the_rest_is_shown(run_folder, name, how):
    variant = run_folder / "variants" / "topk@blocks.9.hook_resid_post"
    path = variant / name[2:] if name.startswith("v/") else run_folder / name
    if how == "absent":
        path.unlink()
    else:
        path.write_text("{ [", encoding="utf-8")
    text = Page(write_report(run_folder)).text
    assert "Not in this run folder" in text
    assert path.name in text.split("Results")[1]
    assert "batch-topk" in text


def test_an_unscored_run_has_a_page(run_folder):
    for file in ("metrics.json", "examples.json"):
        for path in run_folder.glob(f"variants/*/{file}"):
            path.unlink()
    text = Page(write_report(run_folder)).text
    assert "Nothing has been scored yet." in text
    assert "not scored" in text


def test_one_site_one_variant(tmp_path):
    folder = write_run(tmp_path / "small", sites={"blocks.3.hook_mlp_out": 576})
    for path in sorted(folder.glob("variants/*"))[1:]:
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    text = Page(write_report(folder)).text
    assert "One sparse autoencoder was then trained at one site" in text
    assert "it finished" in text


def test_beside_the_statement_are_a_figure_and_the_latent_whose_tokens_are_most_alike(run_folder):
    (variant, site) = ("relu-l1", "blocks.9.hook_resid_post")

    def alike(record: dict[str, Any]) -> None:
        for example in record["latents"][2]["examples"]:
            example["tokens"][example["index"]] = " The" if example["position"] % 2 else "the"

    edit(run_folder / "variants" / f"{variant}@{site}" / "examples.json", alike)
    seal(run_folder / "variants" / f"{variant}@{site}")
    page = Page(write_report(run_folder))
    latent = json.loads((run_folder / "variants" / f"{variant}@{site}" / "examples.json").read_text())["latents"][2]
    first = page.text.split("Results")[0]
    assert f"Latent {latent['latent']} of {variant}" in first
    assert [a["data-site"] for _, a in page.elements if "data-small" in a] == [site]


def test_control_a_run_without_scores_has_neither(run_folder):
    for path in run_folder.glob("variants/*/metrics.json"):
        path.unlink()
    page = Page(write_report(run_folder))
    assert "Latent " not in page.text.split("Results")[0]
    assert not [a for _, a in page.elements if "data-small" in a]


def test_a_folder_without_saes_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="train first"):
        write_report(tmp_path)


def test_the_same_run_gives_the_same_bytes(run_folder):
    first = write_report(run_folder).read_bytes()
    assert write_report(run_folder).read_bytes() == first


BLOCKED = (
    "torch",
    "numpy",
    "zarr",
    "strata_sae.stores.front.store",
    "strata_sae.stores.serving.batches",
    "transformers",
    "datasets",
    "safetensors",
    "pandas",
)


def test_the_report_needs_no_tensor_store_or_model_library(run_folder):
    program = f"""
import sys
for name in {BLOCKED!r}:
    sys.modules[name] = None
from pathlib import Path
from strata_sae.pipeline.report.facts import variant_facts
from strata_sae.pipeline.pages.text import show
from strata_sae.pipeline.report.page import write_report
write_report(Path({str(run_folder)!r}))
"""
    repository = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (run_folder / "report.html").stat().st_size > 10**6
