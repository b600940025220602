"""The screen of all latents of an SAE on a plane: what lies together, and what it means."""

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from markupsafe import Markup
from pydantic import JsonValue

from strata_sae.pipeline.explore.screen import BadValueError, Context, World, chosen, whole_number
from strata_sae.pipeline.explore.screens.shown import Named, named
from strata_sae.pipeline.pages.text import script_json
from strata_sae.pipeline.queries.layout import Layout, Plane, has_umap, pca, umap
from strata_sae.pipeline.queries.opened import CodedRun, CodedSAE

WIDTH, HEIGHT = 1000, 640
"""Of the picture, in its own units."""
MARGIN = 24
N_DOTS = 3000
"""Dots of a picture: with the labels for the pointer 45 bytes each, so that a page stays below 200 kB."""
N_LINKS = 160
"""Dots that are links without any script."""
N_WORDS = 42
"""Dots with their token beside them."""
WORD_WIDTH, WORD_HEIGHT = 96, 24
"""What a word keeps free around itself, in units of the picture."""
N_SHADES = 10
MOST_ZOOM = 8
COLOURS = {"f1": "F1 of the token label", "density": "how often it fires"}
LAYOUTS: dict[str, str] = {"pca": "principal components", "umap": "UMAP"}


class Dot(NamedTuple):
    """A latent on the picture."""

    named: Named
    x: int
    y: int
    word: str


def fill(world: World, values: Mapping[str, str]) -> Context:
    """What the page shows of the plane of an SAE. Raises: KeyError; BadValueError."""
    run, sae = world.run(values), world.sae(values)
    layouts = {name: said for name, said in LAYOUTS.items() if name == "pca" or has_umap()}
    layout: Layout = "umap" if chosen(values, "layout", layouts, "pca") == "umap" else "pca"
    colour = chosen(values, "colour", COLOURS, "f1")
    at = _zoom(values)
    plane = placed(sae, layout)
    x_E, y_E = _on_picture(plane.xy, at)
    inside = np.flatnonzero((x_E >= 0) & (x_E <= WIDTH) & (y_E >= 0) & (y_E <= HEIGHT))
    shown = inside[np.unique(np.linspace(0, max(0, len(inside) - 1), min(N_DOTS, len(inside))).astype(int))]
    shade_E, ends = _shades(sae, colour)
    f1_E = np.full(sae.d_sae, -1.0) if sae.labels is None else np.nan_to_num(sae.labels.f1, nan=-1.0)
    best_first = shown[np.argsort(-f1_E[shown], kind="stable")]
    latent = whole_number(values, "latent", -1, 0, sae.d_sae - 1)
    return {
        "title": f"map of {sae.name}",
        "run": values["run"],
        "sae": sae.name,
        "width": WIDTH,
        "height": HEIGHT,
        "layouts": layouts,
        "layout": layout,
        "colours": COLOURS,
        "colour": colour,
        "ends": ends,
        "zoom": at,
        "can_zoom": len(at) < MOST_ZOOM,
        "explained": plane.explained,
        "n_inside": len(inside),
        "n_shown": len(shown),
        "d_sae": sae.d_sae,
        "shades": _paths(shown, shade_E, x_E, y_E),
        "links_": [_dot(run, sae, int(one), x_E, y_E) for one in best_first[:N_LINKS]],
        "words_": _words(run, sae, best_first, x_E, y_E),
        "ring": _dot(run, sae, latent, x_E, y_E) if latent in inside else None,
        "data": _data(run, sae, shown, x_E, y_E),
    }


@lru_cache(maxsize=32)
def placed(sae: CodedSAE, layout: Layout) -> Plane:
    """The plane of an SAE, kept: it takes a second at 65,536 latents, UMAP minutes."""
    return umap(sae.W_dec) if layout == "umap" else pca(sae.W_dec)


def _zoom(values: Mapping[str, str]) -> str:
    """Where the picture is cut out: each digit is one of nine overlapping quarters, row by row."""
    at = values.get("at", "")
    if len(at) > MOST_ZOOM or set(at) - set("012345678"):
        raise BadValueError(f"at: {at[:40]} is no place; each of at most {MOST_ZOOM} digits is 0 to 8")
    return at


def _on_picture(xy_E: np.ndarray, at: str) -> tuple[np.ndarray, np.ndarray]:
    """Places in units of the picture, float64 [E] each; nan where a latent has none. Both axes have one scale."""
    low_2, high_2 = (edge(xy_E, axis=0) for edge in (np.nanmin, np.nanmax)) if len(xy_E) else (np.zeros(2),) * 2
    low_2, high_2 = np.nan_to_num(low_2.astype(np.float64)), np.nan_to_num(high_2.astype(np.float64))
    room_2 = np.array([WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN])
    scale = float((room_2 / np.maximum(high_2 - low_2, 1e-12)).min())
    place_E = (xy_E - (low_2 + high_2) / 2) * scale * [1, -1] + [WIDTH / 2, HEIGHT / 2]
    for digit in at:
        corner = np.array([int(digit) % 3, int(digit) // 3]) / 4 * [WIDTH, HEIGHT]
        place_E = (place_E - corner) * 2
    return place_E[:, 0], place_E[:, 1]


def _shades(sae: CodedSAE, colour: str) -> tuple[np.ndarray, tuple[str, str]]:
    """Of each latent its shade, 0 to N_SHADES - 1, or -1 where nothing is known; and what the ends are."""
    if colour == "density":
        share_E = sae.codes.table["count"] / max(1, int(sae.kept().sum()))
        logs_E = np.log10(np.maximum(share_E, 1e-6))
        alive = share_E > 0
        low, high = (float(edge(logs_E[alive])) for edge in (np.min, np.max)) if alive.any() else (-6.0, 0.0)
        part_E = (logs_E - low) / max(high - low, 1e-9)
        ends = (f"{100 * 10**low:.2g} % of rows", f"{100 * 10**high:.2g} %")
    else:
        part_E = np.full(sae.d_sae, np.nan) if sae.labels is None else sae.labels.f1.astype(np.float64)
        alive, ends = np.isfinite(part_E), ("0", "1")
    shade_E = np.clip(np.nan_to_num(part_E) * N_SHADES, 0, N_SHADES - 1).astype(int)
    return np.where(alive, shade_E, -1), ends


def _paths(shown: np.ndarray, shade_E: np.ndarray, x_E: np.ndarray, y_E: np.ndarray) -> list[tuple[int, Markup]]:
    """Of each shade the path that draws its dots: lines of no length with round ends, 10 bytes each."""
    paths = []
    for shade in range(-1, N_SHADES):
        some = shown[shade_E[shown] == shade]
        if len(some):
            moves = (f"M{x:.0f} {y:.0f}h0" for x, y in zip(x_E[some], y_E[some], strict=True))
            paths.append((shade, Markup("".join(moves))))
    return paths


def _dot(run: CodedRun, sae: CodedSAE, latent: int, x_E: np.ndarray, y_E: np.ndarray) -> Dot:
    one = named(run, sae, latent)
    word = one.label.chips[0].text.strip()[:12] if one.label.chips else ""
    return Dot(one, round(float(x_E[latent])), round(float(y_E[latent])), word)


def _words(run: CodedRun, sae: CodedSAE, best_first: np.ndarray, x_E: np.ndarray, y_E: np.ndarray) -> list[Dot]:
    """The dots with the best labels, such that no word covers another, and each word once."""
    found: list[Dot] = []
    for latent in best_first[: 20 * N_WORDS].tolist():
        if len(found) == N_WORDS:
            break
        x, y = x_E[latent], y_E[latent]
        if x > WIDTH - WORD_WIDTH or any(abs(x - one.x) < WORD_WIDTH and abs(y - one.y) < WORD_HEIGHT for one in found):
            continue
        dot = _dot(run, sae, latent, x_E, y_E)
        if dot.word and dot.word not in {one.word for one in found}:
            found.append(dot)
    return found


def _data(run: CodedRun, sae: CodedSAE, shown: np.ndarray, x_E: np.ndarray, y_E: np.ndarray) -> Markup:
    """For the pointer: latent, x, y and the first tokens of the label, of each dot."""
    dots: list[JsonValue] = []
    for latent in shown.tolist():
        one = _dot(run, sae, latent, x_E, y_E)
        dots.append([latent, one.x, one.y, " ".join(chip.text[:10] for chip in one.named.label.chips[:2])])
    return script_json(dots)
