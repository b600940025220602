"""An SAE that can be asked, whoever trained it: codes and reconstructions of raw rows."""

from dataclasses import dataclass

from torch import Tensor

from strata_sae.pipeline.formats.foreign import Source
from strata_sae.pipeline.kernels.codes import Codes
from strata_sae.pipeline.runs.row_units import RowUnits, units_of_documents
from strata_sae.pipeline.saes.base import SAE, Inference


class LoadedSAE:
    """An SAE. Rows are raw: as the model gave them and the store holds them, not scaled."""

    sae: SAE
    """Its weights in units of the rows: `W_enc` [d_sae, d_in], `W_dec` [d_sae, d_out], `b_enc`, `b_dec`; `settings`."""

    @property
    def name(self) -> str:
        """`<variant>@<site>`, or where a foreign one lies."""
        raise NotImplementedError

    @property
    def is_per_document(self) -> bool:
        """Whether it was trained on rows standardised by document (`training.input_scale: per_document`)."""
        return False

    def units_of(self, x_BM: Tensor, document_B: Tensor) -> RowUnits | None:
        """What `encode` and `decode` need of an SAE that was trained on rows standardised by document; None of others.

        x_BM: rows of whole documents [B, d_in], without those that training.filters leaves out; document_B: integers.
        Raises: ValueError if the numbers of a document do not vary.
        """
        return units_of_documents(x_BM, document_B) if self.is_per_document else None

    def encode(self, x_BM: Tensor, units: RowUnits | None = None, *, inference: Inference | None = None) -> Codes:
        """The sparse codes of rows, each decided by itself: rows of one batch do not change one another.

        Shapes: x_BM float32 [B, d_in], in the units of the store, on the device that the SAE was loaded to.
        units: those of the rows' documents, if `is_per_document`; they change nothing for other SAEs.
        inference: `k` or `threshold`, for topk and batch_topk; None: as the config's `sae.inference` says.
        Returns: codes of B rows and `d_sae` latents; `to_dense()` gives them as [B, d_sae].
        Raises: ValueError for a way in which this SAE cannot select, or without the units that it needs.
        """
        seen_BM = self.seen(x_BM, units)
        if inference is None:
            return self.sae.encode_inference(seen_BM)
        if inference not in (ways := self.sae.inferences()):
            raise ValueError(
                f"inference: {inference!r}, but {self.name} ({self.sae.settings.architecture}) selects by "
                f"{' or '.join(ways) or 'its one rule'}; leave the argument out"
            )
        (codes,) = self.sae.encode_as(seen_BM, [inference])
        return codes

    def seen(self, x_BM: Tensor, units: RowUnits | None) -> Tensor:
        """Rows as `sae` reads them: standardised by document if it was trained so. Raises: ValueError without units."""
        units = self._needed(units)
        return x_BM if units is None else units.apply(x_BM)

    def decode(self, codes: Codes, units: RowUnits | None = None) -> Tensor:
        """The reconstruction of rows from their codes: float32 [B, d_out], in the units of the store.

        units: as for `encode`; mean and deviation of each row's document, which the codes do not hold, are put back.
        """
        units, xhat_BM = self._needed(units), self.sae.decode(codes)
        return xhat_BM if units is None else units.undo(xhat_BM)

    def _needed(self, units: RowUnits | None) -> RowUnits | None:
        if self.is_per_document and units is None:
            raise ValueError(
                f"{self.name}: was trained on rows standardised by document, so it needs the units of the rows' "
                "documents; give what units_of(rows, documents) returns"
            )
        return units if self.is_per_document else None

    @property
    def threshold(self) -> Tensor | None:
        """Above which value a latent is active: one number, or [d_sae] of JumpReLU. None where nothing is compared.

        topk and batch_topk select by it where `inference` is `threshold`.
        """
        return self.sae.threshold


@dataclass(frozen=True)
class ForeignSAE(LoadedSAE):
    """An SAE that another library trained, from its files."""

    sae: SAE
    source: Source
    """Where it came from, what its files say, and their sha256."""

    @property
    def name(self) -> str:
        """Where its files lie."""
        return self.source.path
