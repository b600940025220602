"""Pictures for a model card, as SVG text: how often latents are active, and R2 against L0 of a run's SAEs."""

import math
from collections.abc import Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

from strata_sae.pipeline.pages.text import cut, visible
from strata_sae.pipeline.runs.evaluation_records import Histogram

_WIDTH, _HEIGHT = 720, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 20, 48, 52
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's, which people tell apart who see fewer colours."""
_MAX_LABEL = 28
_LARGEST, _SMALLEST = 1e12, 1e-9
"""Values beyond, and relative differences below, are not drawn: labels of them would say nothing."""


class Point(NamedTuple):
    """An SAE in the plane of L0 and R2."""

    name: str
    l0: float
    r2: float


class _Axis:
    """Values from `low` to `high`, along pixels from `start` to `stop`."""

    def __init__(self, low: float, high: float, start: float, stop: float) -> None:
        spread = high - low
        if spread < _SMALLEST * max(abs(low), abs(high), 1.0):
            spread = max(abs(high), 1.0)
        pad = 0.06 * spread
        self._low, self._high, self._start, self._stop = low - pad, high + pad, start, stop

    def at(self, value: float) -> float:
        """The pixel of a value."""
        return self._start + (value - self._low) / (self._high - self._low) * (self._stop - self._start)

    def ticks(self) -> list[float]:
        """About five round values."""
        raw = (self._high - self._low) / 5
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)
        first, last = math.ceil(self._low / step), math.floor(self._high / step)
        return [number * step for number in range(first, last + 1)]


def density_picture(histogram: Histogram, n_rows: int) -> str | None:
    """How many latents are active how often; None where nothing was counted."""
    counts, edges = histogram.counts, histogram.log10_edges
    if not counts or not any(counts) or not _can_be_drawn([*edges, *counts]):
        return None
    x, y = _axes((edges[0], edges[-1]), (0, max(counts)))
    bars = [
        f'<rect x="{x.at(low):.1f}" y="{y.at(count):.1f}" width="{max(x.at(high) - x.at(low) - 1, 0.5):.1f}" '
        f'height="{y.at(0) - y.at(count):.1f}" fill="{_COLOURS[0]}"/>'
        for low, high, count in zip(edges, edges[1:], counts, strict=False)
        if count
    ]
    title = f"How often latents are active on {n_rows:,} held-out rows"
    return _svg(title, "share of rows on which a latent is active (log10)", "latents", x, y, bars)


def frontier_picture(site: str, points: Sequence[Point]) -> str | None:
    """R2 against L0 of the SAEs of a site; None where no SAE has both."""
    if not points or not _can_be_drawn([value for point in points for value in point[1:]]):
        return None
    x, y = _axes(
        (min(point.l0 for point in points), max(point.l0 for point in points)),
        (min(point.r2 for point in points), max(point.r2 for point in points)),
    )
    marks = []
    for number, point in enumerate(points):
        across, down = x.at(point.l0), y.at(point.r2)
        label = escape(visible(cut(point.name, _MAX_LABEL)))
        near_the_edge = across > 0.7 * _WIDTH
        anchor, offset = ("end", -9) if near_the_edge else ("start", 9)
        marks.append(
            f'<circle cx="{across:.1f}" cy="{down:.1f}" r="5" fill="{_COLOURS[number % len(_COLOURS)]}"/>'
            f'<text x="{across + offset:.1f}" y="{down + 4:.1f}" text-anchor="{anchor}" font-size="12">{label}</text>'
        )
    return _svg(
        f"R² against L0 on held-out rows, {visible(site)[:60]}", "L0: active latents per row", "R²", x, y, marks
    )


def _can_be_drawn(values: Sequence[float]) -> bool:
    return all(abs(value) < _LARGEST for value in values)


def _axes(across: tuple[float, float], up: tuple[float, float]) -> tuple[_Axis, _Axis]:
    return _Axis(*across, _LEFT, _WIDTH - _RIGHT), _Axis(*up, _HEIGHT - _BOTTOM, _TOP)


def _svg(title: str, across: str, up: str, x: _Axis, y: _Axis, marks: list[str]) -> str:
    """A picture on white, which pages of both colours show alike."""
    lines = [
        f'<text x="{x.at(tick):.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle" font-size="12">{tick:g}</text>'
        for tick in x.ticks()
    ]
    for tick in y.ticks():
        level = y.at(tick)
        lines.append(
            f'<line x1="{_LEFT}" y1="{level:.1f}" x2="{_WIDTH - _RIGHT}" y2="{level:.1f}" stroke="#e0e0e0"/>'
            f'<text x="{_LEFT - 8}" y="{level + 4:.1f}" text-anchor="end" font-size="12">{tick:g}</text>'
        )
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    words = [
        f'<text x="{_LEFT}" y="26" font-size="16" font-weight="600">{escape(title)}</text>',
        f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2:.0f}" y="{_HEIGHT - 12}" text-anchor="middle" font-size="13">'
        f"{escape(across)}</text>",
        f'<text x="18" y="{middle:.0f}" text-anchor="middle" font-size="13" '
        f'transform="rotate(-90 18 {middle:.0f})">{escape(up)}</text>',
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" '
        f'height="{_HEIGHT}" font-family="system-ui, sans-serif" fill="#222">\n'
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>\n'
        + "\n".join([*lines, *marks, *words])
        + "\n</svg>\n"
    )
