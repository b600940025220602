"""What tokenising a corpus costs one core alone, which bounds how fast any number of cores can plan.

    python benchmarks/plan.py

The demo's tokenizer over Python's own documentation: as text, as chats, and deduplicated. One process: the tokenizer's
threads share the work, and what its main thread does (its CPU time) stays on one core. Several: processes tokenise, and
the main process reads, sends, receives, draws and writes. Times are of CPU, not by the clock, so a busy machine changes
them little, and two cores are enough to find where a hundred would wait. Both sides must leave the same tokens.
"""

import json
import os
import pydoc_data.topics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import strata_sae.pipeline.extractor.tokens as tokens
from benchmarks.toy import met, sized
from strata_sae.pipeline.config.corpus import CorpusSettings
from strata_sae.pipeline.extractor.spool import spool_documents
from strata_sae.pipeline.language_model.loading import load_tokenizer
from strata_sae.pipeline.language_model.transformers_library import Tokenizer
from strata_sae.pipeline.settings import ModelSettings

N_TOKENS = sized(400_000, 20_000)
PIECE = 600
"""Characters of a message."""
N_PROCESSES = 2


def corpora(folder: Path) -> dict[str, dict[str, Any]]:
    """Settings of each corpus; the texts are written once."""
    text = "\n".join(pydoc_data.topics.topics.values())
    pages = [text[first : first + 5 * PIECE] for first in range(0, len(text), 5 * PIECE)]
    chats = [
        [
            {"role": ("user", "assistant")[first // PIECE % 2], "content": page[first : first + PIECE]}
            for first in range(0, len(page), PIECE)
        ]
        for page in pages
    ]
    rows = {"text": [{"text": page} for page in pages], "messages": [{"messages": chat} for chat in chats]}
    for name, documents in rows.items():
        lines = "".join(json.dumps(document) + "\n" for document in documents)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    sources = {
        name: [{"kind": "jsonl", "paths": [str(folder / f"{name}.jsonl")], "column": name, "chat": name == "messages"}]
        for name in rows
    }
    return {
        "text": {"sources": sources["text"]},
        "chats": {"sources": sources["messages"]},
        "text, repeated n-grams left out": {"sources": sources["text"], "deduplicate": {"n": 20}, "n_tokens": None},
    }


def measured(settings: CorpusSettings, tokenizer: Tokenizer, folder: Path) -> tuple[float, float, bytes]:
    """Microseconds of CPU a token, of the main thread and of this process in all; and the tokens."""
    main, whole = time.thread_time(), time.process_time()
    spool = spool_documents(settings, tokenizer, folder, False)
    main, whole = time.thread_time() - main, time.process_time() - whole
    n_tokens = len(spool.token_id)
    return main / n_tokens * 1e6, whole / n_tokens * 1e6, np.array(spool.token_id).tobytes()


def main() -> int:
    """Returns: 0 if several processes leave the tokens of one, and less to the main one."""
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    tokenizer, fine = load_tokenizer(ModelSettings(path="demo")), True
    tokens.FEWEST_CORES, tokens.n_cores = 1, lambda: N_PROCESSES
    never = 1 << 62
    heads = ("one: alone", "in all", "several: alone", "alone, of one")
    print("us of CPU a token".ljust(34) + "".join(f"{head:>16}" for head in heads))
    with tempfile.TemporaryDirectory(prefix="strata-plan-") as folder:
        for name, changes in corpora(Path(folder)).items():
            settings = CorpusSettings.model_validate(
                {"n_tokens": N_TOKENS, "repeat": "deduplicate" not in changes, "context_length": 256, **changes}
            )
            tokens.START_CHARACTERS = never
            one, whole, expected = measured(settings, tokenizer, Path(folder) / "one")
            tokens.START_CHARACTERS = 0
            several, _, found = measured(settings, tokenizer, Path(folder) / "several")
            print(f"{name:<34}{one:16.3f}{whole:16.3f}{several:16.3f}{several / one:16.2f}", flush=True)
            fine = fine and found == expected and met(several < one)
    return int(not fine)


if __name__ == "__main__":
    sys.exit(main())
