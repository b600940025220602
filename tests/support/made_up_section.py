"""A section with a table and a figure of everything that sections may hold, with names that a test chooses."""

from strata_sae.pipeline.report.run_data import Run
from strata_sae.pipeline.report.sections import Section, SectionFigure, SectionTable

LONG = "Share of the variance that is gained over the mean, of held-out rows"


def made_up(run: Run, name: str = "topk") -> Section:
    """`name` stands wherever a section's text may come from a record."""
    table = SectionTable(
        name="recovered",
        caption=f"Recovered by {name}",
        heads=[("variant", ""), ("KL", "nats"), ("gain", LONG), ("latents", "latents"), ("said", name[:20])],
        rows=[
            ["topk", 0.7950721447, -0.25, 2304, "one seed"],
            ["batch-topk", 1.25e-7, float("nan"), 12, name],
            [name, None, 12.5, None, "no real difference"],
        ],
    )
    spread: list[float | None] = [0.1, float("inf")]
    figure = SectionFigure(
        name="spread",
        caption=f"KL of {name}",
        traces=[
            {
                "type": "scatter",
                "variant": run.variants[1],
                "x": [1, 2],
                "y": [3.0, float("nan")],
                "text": [name, name],
            },
            {"type": "scatter", "name": name, "x": [1, 2], "y": [2.0, 2.5], "error_y": {"array": spread}},
            {"type": "scatter", "name": "null", "mode": "lines", "x": [1, 2], "y": [1.0, 1.0]},
            {
                "type": "bar",
                "x": [1, 2],
                "y": [1, 2],
                "marker": {"color": [{"variant": name} for name in run.variants[:2]]},
            },
        ],
        layout={"xaxis": {"title": f"L0 of {name}", "type": "log"}, "yaxis": {"title": {"text": "KL"}}, "height": 300},
    )
    return Section("made-up", f"Made up {name}", f"What {name} says.", [table], [figure], [f"Not measured: {name}."])
