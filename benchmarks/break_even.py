"""How many passes over the same activations it takes before storing them costs less than running the model again.

    python benchmarks/break_even.py

Prints the tables of docs/break_even.md, which explains the formulas and holds this output word for word. Nothing is
measured here: what was is quoted from docs/log.md, everything else is a price or a rate to replace by your own.
"""

from dataclasses import dataclass, replace
from itertools import product
from math import floor, inf


@dataclass(frozen=True)
class Number:
    """A number the tables rest on."""

    value: float
    unit: str
    origin: str
    """`assumed`, `list price`, `data sheet`, `paper`, `measured`, or the words of docs/log.md that state it."""
    meaning: str


NUMBERS = {
    "gpu": Number(2.50, "$ an hour", "list price", "one H100-class GPU, rented"),
    "model_rate": Number(
        396e12, "FLOP/s", "assumed", "40 % of 989e12, its dense bfloat16 peak: the model's forward pass"
    ),
    "sae_rate": Number(198e12, "FLOP/s", "assumed", "40 % of 494e12, its TF32 peak: training an SAE"),
    "sae_flops": Number(6.0, "x M x E FLOP a row", "assumed", "one SAE: encoder forward, its gradient, sparse decoder"),
    "expansion": Number(8.0, "E / M", "assumed", "latents of an SAE for each dimension of its site"),
    "overhead": Number(1.06, "x", "bfloat16 1.060", "extraction over the same forward passes alone"),
    "loader": Number(
        4.6e9, "bytes/s", "1.5 to 2.5 M rows/s", "the lower, x 3,072 bytes; two cores, rows in the page cache"
    ),
    "disk": Number(3.0e9, "bytes/s", "assumed", "one NVMe disk, read in large blocks"),
    "network": Number(1.0e9, "bytes/s", "assumed", "an object store, read by one machine"),
    "scratch": Number(0.0, "$ per GB and month", "assumed", "disks that are paid for and empty"),
    "own": Number(0.0021, "$ per GB and month", "assumed", "NVMe at 100 $ per TB, written off in 48 months, one copy"),
    "spinning": Number(0.0004, "$ per GB and month", "assumed", "hard disks at 20 $ per TB, 48 months, one copy"),
    "object": Number(0.023, "$ per GB and month", "list price", "an object store's standard class"),
    "egress": Number(0.09, "$ per GB", "list price", "bytes that leave a cloud for another, each time they are read"),
    "months": Number(1.0, "months", "assumed", "how long the activations are kept"),
}
MODELS = {  # parameters, model width
    "135M": (135e6, 576),
    "1B": (1.24e9, 2048),
    "2B": (2.6e9, 2304),
    "8B": (8.0e9, 4096),
    "27B": (27.2e9, 4608),
    "70B": (70.6e9, 8192),
}
SITES = {1: 0.5, 8: 0.9}
"""Sites -> share of the model below the deepest of them: the rest need not be run."""
ROW_BYTES = {"bf16": (2, 4), "int8": (1, 8), "f32": (4, 4)}
"""Bytes for each number, and for each row beside them (norm, scale)."""
TOKEN_BYTES = 17
SECONDS = 3600.0


def number(name: str) -> float:
    return NUMBERS[name].value


@dataclass(frozen=True)
class Case:
    """One corpus through one model; dollars unless a name says otherwise."""

    parameters: float
    d_model: int
    tokens: float
    sites: int
    share: float
    encoding: str = "bf16"
    storage: str = "own"
    months: float = 1.0
    together: int = 1
    """SAEs that one pass trains at each site."""
    egress: bool = False

    @property
    def n_bytes(self) -> float:
        """Stored bytes."""
        each, beside = ROW_BYTES[self.encoding]
        return self.tokens * (self.sites * (each * self.d_model + beside) + TOKEN_BYTES)

    @property
    def model(self) -> float:
        """Running the model once over the tokens."""
        return self.model_seconds * number("gpu") / SECONDS

    @property
    def model_seconds(self) -> float:
        """The same in seconds of a GPU: 2 FLOP for each parameter and token; attention's own products left out."""
        return 2 * self.parameters * self.share * self.tokens / number("model_rate")

    @property
    def sae_seconds(self) -> float:
        """Training the SAEs of one pass."""
        flops = number("sae_flops") * number("expansion") * self.d_model**2
        return self.tokens * self.sites * self.together * flops / number("sae_rate")

    @property
    def keeping(self) -> float:
        """Storage for `months`."""
        return self.n_bytes / 1e9 * number(self.storage) * self.months

    @property
    def reading(self) -> float:
        """One pass: the GPU waiting for rows that do not come as fast as it trains, and egress."""
        rate = min(number("loader"), number("network" if self.storage == "object" else "disk"))
        waiting = max(0.0, self.n_bytes / rate - self.sae_seconds) * number("gpu") / SECONDS
        return waiting + (self.n_bytes / 1e9 * number("egress") if self.egress else 0.0)

    def stored(self, passes: float) -> float:
        """Activations for so many passes, the model run once."""
        return number("overhead") * self.model + self.keeping + passes * self.reading

    def passes(self) -> float:
        """The smallest number of passes at which storing costs less than running the model each time."""
        gain = self.model - self.reading
        return floor((number("overhead") * self.model + self.keeping) / gain) + 1 if gain > 0 else inf


def table(heads: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [heads, ["---"] * len(heads), *rows])


def money(dollars: float) -> str:
    return f"{dollars:,.0f} $" if dollars >= 10 else f"{dollars:.2f} $"


def size(n_bytes: float) -> str:
    return f"{n_bytes / 1e12:,.2f} TB" if n_bytes >= 1e11 else f"{n_bytes / 1e9:,.0f} GB"


def times(passes: float) -> str:
    return "never" if passes == inf else f"{passes:,.0f}"


def assumptions() -> str:
    rows = []
    for name, n in NUMBERS.items():
        origin = n.origin if n.origin in ("assumed", "list price") else f'measured: "{n.origin}"'
        rows.append([name, f"{n.value:,g}", n.unit, origin, n.meaning])
    return table(["name", "value", "unit", "origin", "what"], rows)


def passes_table() -> str:
    heads = ["model", "sites", "tokens", "a pass of the model", "bf16", "int8", "scratch", "own", "own, int8", "object"]
    rows = []
    for (name, (parameters, d_model)), (sites, share), tokens in product(MODELS.items(), SITES.items(), (1e8, 1e9)):
        plain = Case(parameters, d_model, tokens, sites, share, months=number("months"))
        coded = replace(plain, encoding="int8")
        cells = [name, str(sites), f"{tokens:.0e}".replace("e+0", "e"), money(plain.model), size(plain.n_bytes)]
        choices = [replace(plain, storage="scratch"), plain, coded, replace(plain, storage="object")]
        rows.append([*cells, size(coded.n_bytes), *(times(choice.passes()) for choice in choices)])
    return table(heads, rows)


def exceptions() -> str:
    """What moves the answer, one thing at a time."""
    p2, d2 = MODELS["2B"]
    p8, d8 = MODELS["8B"]
    p70, d70 = MODELS["70B"]
    small, narrow = MODELS["135M"]
    cases = {
        "2B, one site, 1e9 tokens, own disks (for comparison)": Case(p2, d2, 1e9, 1, 0.5),
        "the same, kept 12 months": Case(p2, d2, 1e9, 1, 0.5, months=12),
        "the same, in an object store of another cloud": Case(p2, d2, 1e9, 1, 0.5, storage="object", egress=True),
        "135M, one small SAE at a time": Case(small, narrow, 1e9, 1, 0.5, storage="scratch"),
        "135M, six SAEs in one pass": Case(small, narrow, 1e9, 1, 0.5, storage="scratch", together=6),
        "135M, six SAEs in one pass, 1e7 tokens": Case(small, narrow, 1e7, 1, 0.5, storage="scratch", together=6),
        "70B, a site in layer 2 of 80": Case(p70, d70, 1e9, 1, 0.025),
        "70B, a site in the middle": Case(p70, d70, 1e9, 1, 0.5),
        "8B, one site, object store": Case(p8, d8, 1e9, 1, 0.5, storage="object"),
        "8B, 128 sites at once, object store": Case(p8, d8, 1e9, 128, 1.0, storage="object"),
        "8B, 128 sites at once, own disks, int8": Case(p8, d8, 1e9, 128, 1.0, encoding="int8"),
    }
    rows = [
        [name, money(c.model), size(c.n_bytes), money(c.keeping), money(c.reading), times(c.passes())]
        for name, c in cases.items()
    ]
    return table(["case", "a pass of the model", "stored", "keeping it", "a pass of reading", "passes"], rows)


def gemma_scope() -> str:
    """Their claim: storing for 10 to 100 days is at least an order of magnitude cheaper than one more generation."""
    rows = []
    for storage in ("spinning", "own", "object"):
        for days in (10, 100):
            case = Case(9.2e9, 3584, 8e9, 1, 1.0, "f32", storage, days / 30.4)
            factor = case.model / case.keeping
            rows.append(
                [storage, str(days), size(case.n_bytes), money(case.model), money(case.keeping), f"{factor:.2f} x"]
            )
    return table(["storage", "days", "stored", "generating once more", "keeping", "cheaper by"], rows)


def demo() -> str:
    """Seconds on the machine of docs/log.md, no prices."""
    extraction, training = 131_072 / 2437, 131.0
    alone = extraction / number("overhead")
    rows = [
        ["the model run once, stored", f"{extraction:.0f} s", f"{extraction + training:.0f} s"],
        [
            "the model run for each of 6 variants (both sites at once)",
            f"{6 * alone:.0f} s",
            f"{6 * alone + training:.0f} s",
        ],
        ["the model run for each of 12 SAEs", f"{12 * alone:.0f} s", f"{12 * alone + training:.0f} s"],
    ]
    return table(["the demo, 131,072 tokens, 12 SAEs, two cores", "model", "model and training"], rows)


DEMO_QUOTES = ("131,072 tokens at 2,437/s", "12 SAEs of 250 steps in 131 s")
"""What docs/log.md says the demo took."""


def output() -> str:
    parts = {
        "Numbers": assumptions(),
        "Passes before storing is cheaper": passes_table(),
        "What moves the answer": exceptions(),
        "Gemma Scope's claim, at these prices": gemma_scope(),
        "Measured: the demo": demo(),
    }
    return "\n\n".join(f"### {title}\n\n{text}" for title, text in parts.items())


if __name__ == "__main__":
    print(output())
