"""Architectures, one file each: who is on in a row. Adding one = a file with a class like TopK, and a line here."""

from pipeline.saes.base import SAE
from pipeline.saes.batch_topk import BatchTopK
from pipeline.saes.relu import ReLU
from pipeline.saes.topk import TopK

ARCHITECTURES: dict[str, type[SAE]] = {"relu": ReLU, "topk": TopK, "batch_topk": BatchTopK}
