"""An export: the same pages as files that lead only to each other, whole or not there at all."""

import re
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from typer.testing import CliRunner

from strata_sae.pipeline.commands.app import app
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.explore import static
from strata_sae.pipeline.explore.chosen_pages import chosen_latents
from strata_sae.pipeline.explore.links import Links, StaticLinks, file_of
from strata_sae.pipeline.explore.static import export_pages, new_folder

SAE = "topk@blocks.1.hook_resid_post"
N_LATENTS = 5


@pytest.fixture(scope="module")
def exported(small_world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "pages"
    told = export_pages(small_world, folder, N_LATENTS)
    return folder, told


def files_in(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_every_link_leads_to_a_file_of_the_export(exported):
    folder, _ = exported
    n_links = 0
    for path in files_in(folder):
        page = path.read_text(encoding="utf-8")
        for to in re.findall(r'(?:href|src|action)="([^"]*)"', page):
            if not to.startswith(("#", "data:,")):
                n_links += 1
                assert not to.startswith(("/", "http", "file"))
                assert (path.parent / unquote(to.partition("#")[0])).resolve() in files_in(folder.resolve())
        assert "<form" not in page
        assert "form-action &#39;none&#39;" in page
    assert n_links > 50  # control


def test_the_pages_are_those_of_the_app(exported, small_world):
    """But for links and forms: the rows of the table of an SAE are its chosen latents, by falling rows."""
    folder, told = exported
    sae = small_world.runs["run"].saes[SAE]
    page = (folder / "run" / f"{SAE}.html").read_text(encoding="utf-8")
    shown = [int(found) for found in re.findall(r'<th scope="row">\s*<(?:a|span)[^>]*>(\d+)<', page)]
    assert shown == chosen_latents(sae, N_LATENTS).tolist()
    assert len(shown) == N_LATENTS
    assert len(files_in(folder)) == int(re.search(r": (\d+) pages", told)[1])
    assert f"{48 + 96 - 2 * N_LATENTS} latents (--latents N)" in told


def test_the_densest_and_the_best_explained_are_chosen(small_world):
    sae = small_world.runs["run"].saes[SAE]
    count, f1 = sae.codes.table["count"], np.nan_to_num(sae.labels.f1, nan=-1)
    assert set(chosen_latents(sae, 2).tolist()) <= {
        int(count.argmax()),
        int(f1.argmax()),
        int(np.argsort(-count, kind="stable")[1]),
    }
    assert chosen_latents(sae, 1).tolist() == [int(count.argmax())]
    assert chosen_latents(sae, 10**6).tolist() == sorted(np.flatnonzero(count).tolist(), key=lambda e: (-count[e], e))


def test_the_index_of_tokens_leads_to_latents(exported):
    page = (exported[0] / "search.html").read_text(encoding="utf-8")
    assert re.search(rf'<a href="run/{SAE}/\d+.html">', page) or "<span" in page


@pytest.mark.parametrize("what", ["a file", "a full folder", "a link", "a store", "below a file"])
def test_a_folder_that_is_taken_is_refused(small_folder, tmp_path, what):
    target = tmp_path / "out"
    if what == "a file":
        target.write_text("x")
    elif what == "a full folder":
        target.mkdir()
        (target / "x").write_text("x")
    elif what == "a link":
        target.symlink_to(tmp_path / "elsewhere")
    elif what == "a store":
        target = small_folder / "store" / "out"
    else:
        (tmp_path / "file").write_text("x")
        target = tmp_path / "file" / "out"
    with pytest.raises(ConfigError, match="--export"):
        new_folder(target)


def test_an_empty_folder_and_a_new_one_are_taken(tmp_path):
    """Control."""
    (tmp_path / "empty").mkdir()
    for name in ("empty", "new", "new/below"):
        assert new_folder(tmp_path / name) == tmp_path / name


def test_a_failure_leaves_nothing(small_world, tmp_path, monkeypatch):
    pages = []

    def fail(*arguments):
        if len(pages) == 3:
            raise OSError(28, "No space left on device")
        pages.append(arguments)
        return "x"

    monkeypatch.setattr(static, "page", fail)
    with pytest.raises(OSError, match="No space left"):
        export_pages(small_world, tmp_path / "out", N_LATENTS)
    assert len(pages) == 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("here", "to"),
    [
        ("/", "demo/topk%40x/5.html"),
        ("/demo/topk@x", "../demo/topk%40x/5.html"),
        ("/demo/topk@x/7", "../../demo/topk%40x/5.html"),
    ],
)
def test_links_of_files_are_relative(here, to):
    links = StaticLinks(here, {"/demo/topk@x/5", "/"})
    assert links.latent("demo", "topk@x", 5) == to
    assert links.latent("demo", "topk@x", 6) is None
    assert links.document("demo", 3, row=9) is None


def test_addresses_of_the_app_and_files():
    links = Links("/t")
    assert links.latent("a b", "topk@x", 5, population="all") == "/t/a%20b/topk@x/5?population=all"
    assert links.search(" the") == "/t/search?q=+the"
    assert links.document("r", 3, row=9) == "/t/r/document/3?row=9"
    assert links.run("a b") == "/t/#run-a%20b"
    assert [file_of(address) for address in ("/", "/a%20b/topk@x")] == ["index.html", "a b/topk@x.html"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--latents", "5"], "--latents: says how many latents an export has"),
        (["--export", "out", "--port", "80"], "--port: an export is not served"),
        (["--port", "0"], "--port"),
        (["--port", "99999"], "--port"),
        ([], "no folder of a run"),
    ],
)
def test_options_that_make_no_sense_are_told(tmp_path, options, words):
    result = CliRunner().invoke(app, ["explore", str(tmp_path / "nothing"), *options])
    assert result.exit_code == 2
    assert words in result.output


def test_the_command_exports(small_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(small_folder)
    result = CliRunner().invoke(app, ["explore", "runs/run", "--export", str(tmp_path / "out"), "--latents", "1"])
    assert result.exit_code == 0, result.output
    assert "open index.html" in result.output
    assert Path(tmp_path / "out" / "index.html").is_file()
