"""A text in the model as lines for a terminal."""

from collections.abc import Iterator, Sequence

from strata_sae.pipeline.intervention.prompt_view import Marked, OfSAE, View
from strata_sae.pipeline.pages.tables import aligned
from strata_sae.pipeline.pages.text import cut, visible

LONGEST_TEXT = 18
"""Characters of a token in a column."""
BAR = 12
"""Characters of the longest bar."""


def lines(view: View, named: bool) -> Iterator[str]:
    """All that is told. named: whether the latents of the columns were asked for by number."""
    for edit in view.edits:
        yield f"edit: {edit}"
    yield from _columns(
        ["place", "token", *_following_heads(view)], _following(view), {1, 2} | ({4} if view.kl else set())
    )
    for sae in view.saes:
        yield ""
        yield sae.name
        yield from _marked(view, sae) if named else _strongest(view, sae)
    for how, text in view.continuations:
        yield ""
        yield f"{how}:"
        yield visible(text, keep_lines=True)


def _following_heads(view: View) -> list[str]:
    return ["next", "p", *(["edited_next", "p", "kl_nat"] if view.kl is not None else [])]


def _following(view: View) -> list[list[str]]:
    rows = []
    for place, (text, found) in enumerate(zip(view.texts, view.following, strict=True)):
        row = [str(place), _token(text), _token(found[0]), f"{found[1]:.3f}"]
        if view.edited_following is not None and view.kl is not None:
            edited = view.edited_following[place]
            row += [_token(edited[0]), f"{edited[1]:.3f}", f"{view.kl[place]:.4f}"]
        rows.append(row)
    return rows


def _strongest(view: View, sae: OfSAE) -> Iterator[str]:
    """The strongest latents of each token, then what they mean where that is known."""
    rows = [
        [str(place), _token(text), str(n), "  ".join(f"{latent}: {value:.3g}" for latent, value in strongest)]
        for place, (text, n, strongest) in enumerate(zip(view.texts, sae.n_active, sae.strongest, strict=True))
    ]
    yield from _columns(["place", "token", "active", "strongest latents"], rows, {1, 3})
    yield from (f"  {one.latent}: {visible(one.words)}" for one in sae.marked if one.words)


def _marked(view: View, sae: OfSAE) -> Iterator[str]:
    """The latents that were named, on each token."""
    for one in sae.marked:
        yield f"  latent {one.latent}" + (f": {visible(one.words)}" if one.words else "")
        heads = ["place", "token", "value", *(["edited"] if one.edited is not None else []), ""]
        yield from _columns(
            heads, [_of_token(one, view, place) for place in range(len(view.texts))], {1, len(heads) - 1}
        )


def _of_token(one: Marked, view: View, place: int) -> list[str]:
    value = one.values[place]
    edited = [] if one.edited is None else [f"{one.edited[place]:.3g}"]
    bar = "#" * round(BAR * value / one.largest) if value > 0 and not view.is_special[place] else ""
    return [str(place), _token(view.texts[place]), f"{value:.3g}", *edited, bar]


def _token(text: str) -> str:
    """A token's text in quotes, so that the space before it is seen."""
    return f"'{cut(visible(text), LONGEST_TEXT)}'"


def _columns(heads: Sequence[str], rows: Sequence[Sequence[str]], left: set[int]) -> list[str]:
    """left: the columns of words."""
    return aligned([heads, *rows], set(range(len(heads))) - left)
