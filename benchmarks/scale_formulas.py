"""The formulas of scale_arithmetic.py, and the numbers that they rest on. Units: bytes, seconds, counts."""

import sys
from dataclasses import dataclass
from math import ceil, comb, sqrt
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.break_even import Number
from strata_sae.stores import Layout, layout

HOUR = 3600.0
NUMBERS = {
    "float32": Number(43.6e12, "FLOP/s", "data sheet", "65 % of an H100's 67e12: products as they are made today"),
    "tf32": Number(321e12, "FLOP/s", "data sheet", "65 % of 494e12"),
    "bfloat16": Number(643e12, "FLOP/s", "data sheet", "65 % of 989e12"),
    "model": Number(396e12, "FLOP/s", "data sheet", "40 % of 989e12: the language model's forward pass"),
    "memory": Number(2.85e12, "bytes/s", "data sheet", "85 % of an H100's 3.35e12"),
    "card": Number(80e9, "bytes", "data sheet", "memory of a card"),
    "bus": Number(50e9, "bytes/s", "assumed", "from the host to a card (PCIe 5)"),
    "network": Number(50e9, "bytes/s", "assumed", "a card's own 400 Gbit/s between machines"),
    "nvlink": Number(360e9, "bytes/s", "assumed", "80 % of a card's 450e9 one way inside a machine"),
    "disk": Number(
        2e9, "bytes/s", "assumed", "what a machine reads or writes: its part of a shared file system, or a disk"
    ),
    "survival": Number(50_700, "hours", "paper", "a card between failures: 419 in 54 days of 16,384 (Llama 3, 2024)"),
    "cores": Number(64, "cores", "assumed", "of a machine"),
    "planning": Number(170e3, "tokens/s", "measured", "planning, a core: read, tokenise, token map"),
    "token_map": Number(2.5, "bytes", "measured", "of the token map for each token, compressed"),
    "column": Number(74.3, "bytes", "measured", "of a commit record for each column: four sums as text"),
    "bins": Number(10e3, "bytes", "measured", "of a commit record beside that: norms"),
    "opening": Number(25e6, "bytes/s", "measured", "of commit records, checked on opening, a core"),
    "hashing": Number(1.48e9, "bytes/s", "measured", "sha256, a core"),
}


def number(name: str) -> float:
    return NUMBERS[name].value


@dataclass(frozen=True)
class Case:
    """One store and what is trained on it, on machines of 8 cards."""

    name: str
    n_bytes: float
    """Of stored rows, bfloat16, one site."""
    d_model: int
    parameters: float
    """Of the language model, half of which lies below the site."""
    shard_bytes: int
    d_sae: int
    k: int
    batch: int
    cards: int
    ranks: int
    """Cards that hold one SAE together."""
    saes: int = 1
    """SAEs for each group of ranks."""
    link: str = "network"

    @property
    def rows(self) -> float:
        """Tokens; beside its values a row has a norm."""
        return self.n_bytes / (2 * self.d_model + 4)

    @property
    def machines(self) -> int:
        """Of 8 cards."""
        return ceil(self.cards / 8)

    # The store.

    def laid_out(self, shard_bytes: int) -> Layout:
        """As the product lays rows out in chunks of the default size, and in such shards."""
        return layout({"site": self.d_model}, "bfloat16", 2**21, shard_bytes)

    @property
    def unit_rows(self) -> int:
        """Rows of a unit, which is one shard."""
        return self.laid_out(self.shard_bytes).rows_per_unit

    @property
    def units(self) -> int:
        """Units, and as many commit records."""
        return ceil(self.rows / self.unit_rows)

    @property
    def files(self) -> int:
        """Of rows and norms, commit records, and the token map's four arrays of 2^24 tokens a shard."""
        return 3 * self.units + self.token_files

    @property
    def token_files(self) -> int:
        """Of the token map."""
        return 4 * ceil(self.rows / 2**24)

    @property
    def plan_bytes(self) -> int:
        """Of plan.json: of each file of the token map name, size and sha256, and 8 digits for each of 256 chunks."""
        return self.token_files * (190 + 8 * 256)

    @property
    def commit_bytes(self) -> float:
        """Of one commit record: sums of columns, norms, and for each chunk a checksum of its rows and of its norms."""
        chunks = self.unit_rows / self.laid_out(self.shard_bytes).rows_per_chunk
        return number("column") * self.d_model + number("bins") + 16 * chunks

    @property
    def manifest_bytes(self) -> int:
        """A name, `commits/000/000000.json`, and a sha256 for each unit, with quotes, colon and comma."""
        return (23 + 64 + 6) * self.units

    # Times of stages, in seconds.

    @property
    def forward(self) -> float:
        """Half of the model over all tokens, on all cards: 2 FLOP for each parameter and token."""
        return self.parameters * self.rows / (self.cards * number("model"))

    @property
    def epoch_steps(self) -> float:
        """Updates in which every row is seen once."""
        return self.rows / self.batch

    # A card's part of a step, in seconds. The batch is on every rank; a rank holds E / n latents.

    def encoder(self, precision: str) -> float:
        """The only dense product: all rows with this rank's latents."""
        return 2 * self.batch * self.d_model * self.d_sae / self.ranks / number(precision)

    @property
    def pairs(self) -> float:
        """Rows of float32 of active latents: decoder, its gradient, the codes' and the encoder's gradient."""
        return 4 * 4 * self.batch * self.k * self.d_model / self.ranks / number("memory")

    @property
    def dense(self) -> float:
        """Six passes over [B, M] float32: rows, reconstruction, error, loss, gradient, bias."""
        return 6 * 4 * self.batch * self.d_model / number("memory")

    @property
    def adam(self) -> float:
        """Parameter, gradient and two moments read, three of them written: 28 bytes a parameter."""
        return 28 * self.parameters_held / number("memory")

    @property
    def copy(self) -> float:
        """The batch in bfloat16, from the host to the card; once for all SAEs."""
        return 2 * self.batch * self.d_model / number("bus")

    @property
    def reduce_bytes(self) -> float:
        """That a rank sends, by a ring: sums of reconstruction, bias gradient and norms; each row's least value."""
        summed = 4 * self.batch * self.d_model + 4 * self.d_model + 4 * 8 + 4 * self.batch
        return 2 * (self.ranks - 1) * summed / self.ranks

    def gather_bytes(self, offer: int, again: float = 0.0) -> float:
        """That a rank sends to all others: its largest values of each row, and all k of a share of the rows."""
        return (self.ranks - 1) * 4 * self.batch * (offer + self.k * again)

    @property
    def offer_bytes(self) -> float:
        """As many values as `offered` says, and what is then expected to be offered again."""
        offer = offered(self.k, self.ranks)
        return self.gather_bytes(offer, again(self.k, self.ranks, offer))

    @property
    def scattered(self) -> float:
        """Seconds of telling all ranks the batch, if each read an n-th of it: not what is done, but what could be."""
        return 2 * self.batch * self.d_model * (self.ranks - 1) / self.ranks / number(self.link)

    @property
    def wire(self) -> float:
        """What the exchanges take at the rate of the link."""
        if self.ranks == 1:
            return 0.0
        return (self.reduce_bytes + self.offer_bytes) / number(self.link)

    def step(self, precision: str) -> float:
        """All of it one after the other, for all SAEs of the card."""
        return self.copy + self.saes * (self.computing(precision) + self.wire)

    def computing(self, precision: str) -> float:
        """What one SAE's part of a step takes the card."""
        return self.encoder(precision) + self.pairs + self.dense + self.adam

    def bound(self, precision: str) -> float:
        """The longest of computing, network and bus, as if they overlapped wholly."""
        return max(self.saes * self.computing(precision), self.saes * self.wire, self.copy)

    # Bytes.

    @property
    def parameters_held(self) -> float:
        """Parameters of one SAE on one card."""
        return (2 * self.d_sae * self.d_model + self.d_sae) / self.ranks + self.d_model

    @property
    def card_bytes(self) -> float:
        """float32 parameters, gradients, two moments; four [B, M] float32; a tile of 512 rows; offers of all, twice."""
        tile = 4 * 512 * self.d_sae / self.ranks
        offers = 2 * 4 * self.batch * self.ranks * offered(self.k, self.ranks) if self.ranks > 1 else 0
        return self.saes * 16 * self.parameters_held + 4 * 4 * self.batch * self.d_model + tile + offers

    @property
    def checkpoint_bytes(self) -> float:
        """Of one rank: parameters and two moments of its SAEs."""
        return self.saes * 12 * self.parameters_held

    # Failures, in seconds.

    @property
    def between_failures(self) -> float:
        """Of any of the cards: one of them stops all ranks."""
        return number("survival") * HOUR / self.cards

    @property
    def saving(self) -> float:
        """Writing the parts of a machine's cards, and the sha256 of each, one after the other."""
        on_machine = min(8, self.cards)
        return on_machine * self.checkpoint_bytes / number("disk") + self.checkpoint_bytes / number("hashing")

    @property
    def best_interval(self) -> float:
        """Young 1974: sqrt(2 x saving x time between failures)."""
        return sqrt(2 * self.saving * self.between_failures)

    @property
    def lost(self) -> float:
        """Share of the time that goes to saving, and to doing again what was not saved."""
        return self.saving / self.best_interval + self.best_interval / 2 / self.between_failures


def again(k: int, ranks: int, offer: int) -> float:
    """Share of the rows of which some rank may hold more than it offered: a binomial's tail, once for each rank.

    The k latents of a row are taken to lie on any rank with equal chance.
    """
    chance = 1 / ranks
    return ranks * sum(comb(k, j) * chance**j * (1 - chance) ** (k - j) for j in range(offer, k + 1))


def offered(k: int, ranks: int) -> int:
    """Values of a row that each rank offers at first: so many that at most 1 % of the rows are offered again."""
    return next((n for n in range(ceil(k / ranks), k) if again(k, ranks, n) <= 0.01), k)
