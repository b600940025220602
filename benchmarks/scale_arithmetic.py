"""What a store of 1 PB, an SAE of 16 M latents and 512 cards would need; and one machine with 8 cards and 1 TB.

    python benchmarks/scale_arithmetic.py

Prints the tables of docs/scale_arithmetic.md, which explains them and holds this output word for word. Nothing is
measured here, and nothing of this size was ever run: rates are those of data sheets and of papers, or of docs/log.md.
"""

import sys
from math import ceil
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.scale_formulas import HOUR, NUMBERS, Case, number, offered
from strata_sae.stores import MAX_UNITS
from strata_sae.stores.files.canonical import MAX_JSON_BYTES

PETABYTE = Case("1 PB, 512 cards", 1e15, 8192, 70.6e9, 2**32, 2**24, 128, 65_536, 512, 512)
ONE = Case("1 TB, 8 cards, one SAE", 1e12, 4096, 8.0e9, 2**30, 2**20, 64, 16_384, 8, 8, link="nvlink")
MANY = Case("1 TB, 8 cards, 24 SAEs", 1e12, 4096, 8.0e9, 2**30, 2**16, 64, 8192, 8, 1, saes=3)
CASES = (PETABYTE, ONE, MANY)


def table(heads: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [heads, ["---"] * len(heads), *rows])


def size(n_bytes: float) -> str:
    for power, unit in ((15, "PB"), (12, "TB"), (9, "GB"), (6, "MB"), (3, "kB")):
        if n_bytes >= 0.9995 * 10**power:
            return f"{n_bytes / 10**power:.3g} {unit}"
    return f"{n_bytes:.0f} B"


def duration(seconds: float) -> str:
    for factor, unit in ((86_400.0, "days"), (HOUR, "h"), (60.0, "min"), (1.0, "s")):
        if seconds >= 2 * factor:
            return f"{seconds / factor:.3g} {unit}"
    return f"{1000 * seconds:.2g} ms"


def ms(seconds: float) -> str:
    return f"{1000 * seconds:,.1f}"


def assumptions() -> str:
    rows = [[name, f"{n.value:,g}", n.unit, n.origin, n.meaning] for name, n in NUMBERS.items()]
    return table(["name", "value", "unit", "origin", "what"], rows)


def by_case(rows: dict[str, list[str]]) -> str:
    return table(["", *(case.name for case in CASES)], [[name, *cells] for name, cells in rows.items()])


def cases() -> str:
    return by_case(
        {
            "rows (tokens)": [f"{c.rows:.3g}" for c in CASES],
            "width M; language model": [f"{c.d_model}; {c.parameters / 1e9:.3g} G" for c in CASES],
            "latents E, k, batch rows": [f"{c.d_sae:,}, {c.k}, {c.batch:,}" for c in CASES],
            "parameters of an SAE": [f"{c.parameters_held * c.ranks / 1e9:,.3g} G" for c in CASES],
            "cards that hold an SAE; SAEs on a card": [f"{c.ranks}; {c.saes}" for c in CASES],
            "updates of one epoch": [f"{c.epoch_steps:,.0f}" for c in CASES],
        }
    )


def store() -> str:
    small = [ceil(c.rows / c.laid_out(2**28).rows_per_unit) for c in CASES]
    return by_case(
        {
            "shard; rows of a unit": [f"{size(c.shard_bytes)}; {c.unit_rows:,}" for c in CASES],
            "units = commits": [f"{c.units:,}" for c in CASES],
            f"the same with shards of 268 MB (at most {MAX_UNITS:,})": [
                f"{n:,}{', refused' if n > MAX_UNITS else ''}" for n in small
            ],
            "files": [f"{c.files:,}" for c in CASES],
            "token map": [size(number("token_map") * c.rows) for c in CASES],
            "a commit record; all": [f"{size(c.commit_bytes)}; {size(c.commit_bytes * c.units)}" for c in CASES],
            f"MANIFEST.json; plan.json (at most {size(MAX_JSON_BYTES)} each)": [
                f"{size(c.manifest_bytes)}; {size(c.plan_bytes)}" for c in CASES
            ],
            "opening: commit records checked": [duration(c.commit_bytes * c.units / number("opening")) for c in CASES],
        }
    )


def extraction() -> str:
    rate = [c.n_bytes / c.forward for c in CASES]
    return by_case(
        {
            "planning, one core": [duration(c.rows / number("planning")) for c in CASES],
            "planning, all cores of one machine": [
                duration(c.rows / number("planning") / number("cores")) for c in CASES
            ],
            "forward passes, all cards": [duration(c.forward) for c in CASES],
            "written, all together": [f"{size(each)}/s" for each in rate],
            "written by a card": [f"{size(each / c.cards)}/s" for each, c in zip(rate, CASES, strict=True)],
            "lost with a card: a unit at most": [duration(c.forward * c.cards / c.units) for c in CASES],
        }
    )


def step() -> str:
    return by_case(
        {
            "batch to the card": [ms(c.copy) for c in CASES],
            "encoder: float32, tf32, bfloat16": [
                ", ".join(ms(c.saes * c.encoder(name)) for name in ("float32", "tf32", "bfloat16")) for c in CASES
            ],
            "active latents": [ms(c.saes * c.pairs) for c in CASES],
            "[B, M] tensors": [ms(c.saes * c.dense) for c in CASES],
            "Adam": [ms(c.saes * c.adam) for c in CASES],
            "network: sum over ranks": [
                ms(c.saes * c.reduce_bytes / number(c.link)) if c.ranks > 1 else "none" for c in CASES
            ],
            "network: offers": [ms(c.saes * c.offer_bytes / number(c.link)) if c.ranks > 1 else "none" for c in CASES],
        }
    )


def epoch() -> str:
    rows = {}
    for precision in ("float32", "tf32", "bfloat16"):
        rows[f"{precision}, one after the other"] = [
            f"{c.batch / c.step(precision):,.0f} rows/s, {duration(c.epoch_steps * c.step(precision))}" for c in CASES
        ]
        rows[f"{precision}, wholly overlapped"] = [
            f"{c.batch / c.bound(precision):,.0f} rows/s, {duration(c.epoch_steps * c.bound(precision))}" for c in CASES
        ]
    each = [c.n_bytes / (c.epoch_steps * c.step("tf32")) for c in CASES]
    rows["read by a machine at tf32"] = [f"{size(rate)}/s" for rate in each]
    rows[f"at most, where a machine reads {size(number('disk'))}/s"] = [
        f"{number('disk') / (2 * c.d_model + 4):,.0f} rows/s, {duration(c.n_bytes / number('disk'))}" for c in CASES
    ]
    rows["read by all machines"] = [f"{size(rate * c.machines)}/s" for rate, c in zip(each, CASES, strict=True)]
    return by_case(rows)


def sizes() -> str:
    sharded = [c for c in CASES if c.ranks > 1]
    rows = {
        "on a card, of its 80 GB": [size(c.card_bytes) for c in CASES],
        "a checkpoint: of a rank; of all": [
            f"{size(c.checkpoint_bytes)}; {size(c.checkpoint_bytes * c.cards)}" for c in CASES
        ],
        "sent by a rank in a step: sum": [size(c.reduce_bytes) if c in sharded else "0" for c in CASES],
        "sent: offers (values a row)": [
            f"{size(c.offer_bytes)} ({offered(c.k, c.ranks)} of {c.k})" if c in sharded else "0" for c in CASES
        ],
        "sent if all k were offered": [size(c.gather_bytes(c.k)) if c in sharded else "0" for c in CASES],
        "sent by data-parallel ranks (gradients)": [
            size(2 * (c.ranks - 1) / c.ranks * 4 * c.parameters_held * c.ranks) if c in sharded else "0" for c in CASES
        ],
    }
    return by_case(rows)


def failures() -> str:
    return by_case(
        {
            "between failures of a card": [duration(c.between_failures) for c in CASES],
            "saving a checkpoint, hashed": [duration(c.saving) for c in CASES],
            "best interval": [duration(c.best_interval) for c in CASES],
            "time lost to saving and repeating": [f"{100 * c.lost:.2g} %" for c in CASES],
        }
    )


def limits() -> str:
    """What is in the way of the large case, the worst first, in words."""
    big, one = PETABYTE, ONE
    shares = number("disk") * big.machines
    said = [
        f"**Products in float32.** The encoder's product takes {ms(big.encoder('float32'))} of "
        f"{ms(big.step('float32'))} ms. In bfloat16, with the candidates checked in float32, it would take "
        f"{ms(big.encoder('bfloat16'))}.",
        f"**Every machine reads every row.** All ranks need the whole batch, and each takes it from the store: "
        f"{size(shares)}/s of a file system that gives each machine {size(number('disk'))}/s, and an epoch takes "
        f"{duration(big.n_bytes / number('disk'))} whatever the cards can do. If each rank read an n-th and told the "
        f"others, the file system would give {size(shares / big.machines)}/s, and the network would need "
        f"{ms(big.scattered)} ms more a step.",
        f"**The sum over ranks** takes {ms(big.reduce_bytes / number(big.link))} ms a step in float32; half of it in "
        f"bfloat16. Offers are short already: all k would take {ms(big.gather_bytes(big.k) / number(big.link))} ms.",
        f"**Opening the store.** A commit record is {size(big.commit_bytes)}, of which "
        f"{size(number('column') * big.d_model)} are sums of columns as text. Each process that opens the store reads "
        f"and checks all of them: "
        f"{size(big.commit_bytes * big.units)}, {duration(big.commit_bytes * big.units / number('opening'))}.",
        f"**Planning** by one core takes {duration(big.rows / number('planning'))}, longer than the forward passes "
        f"({duration(big.forward)}) on {big.cards} cards.",
        f"**Files of the format.** plan.json holds {size(big.plan_bytes)}; at "
        f"{size(big.n_bytes * MAX_JSON_BYTES / big.plan_bytes)} of rows it would exceed the {size(MAX_JSON_BYTES)} "
        f"that a reader accepts. With shards of 268 MB there would be too many units.",
        f"**Not in the way**: memory of the cards ({size(big.card_bytes)} of {size(number('card'))}), checkpoints "
        f"({100 * big.lost:.2g} % of the time), a failing card in extraction (a unit is "
        f"{duration(big.forward * big.cards / big.units)} of one card's work).",
        f"**One machine, 1 TB** needs none of this: {one.d_sae:,} latents on 8 cards, an epoch in "
        f"{duration(one.epoch_steps * one.step('float32'))} in float32 and "
        f"{duration(one.epoch_steps * one.step('bfloat16'))} in bfloat16; or 24 SAEs of {MANY.d_sae:,} latents in "
        f"{duration(MANY.epoch_steps * MANY.step('float32'))} or {duration(MANY.epoch_steps * MANY.step('bfloat16'))}.",
    ]
    return "\n".join(f"{place}. {text}" for place, text in enumerate(said, 1))


def output() -> str:
    parts = {
        "Numbers": assumptions(),
        "Three cases": cases(),
        "The store": store(),
        "Extraction": extraction(),
        "A step on a card, ms": step(),
        "An epoch": epoch(),
        "Bytes": sizes(),
        "Failures": failures(),
        "What limits": limits(),
    }
    return "\n\n".join(f"### {title}\n\n{text}" for title, text in parts.items())


if __name__ == "__main__":
    print(output())
