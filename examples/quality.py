# %% [markdown]
# # What quantizing costs
#
# Documentation strings of Python's standard library, embedded by a small model, searched at every precision: what is
# kept of a vector, and how many of the ten nearest rows a search then finds. Nothing here needs a database; what a
# collection does is the same, with an index in place of the scans.
#
# `pip install 'qvec[demo]'`, then run the cells, or all of them: `python examples/quality.py`. Fewer passages are
# embedded sooner: `PASSAGES=500 python examples/quality.py`.

# %%
import os

import numpy as np
from rich.console import Console
from rich.table import Table

from qvec import Calibration, hamming_top_k, quantize, score, ternary
from qvec.embedding import PACKAGED_MODEL, load_embedder
from qvec.passages import stdlib_passages

PASSAGES = int(os.environ.get("PASSAGES", "3000"))
QUERIES = min(100, PASSAGES // 4)
K = 10

# %% [markdown]
# ## Vectors
#
# The last passages stand for questions: they are not among the rows.

# %%
texts = [passage.text for passage in stdlib_passages(PASSAGES + QUERIES)]
vectors = load_embedder(PACKAGED_MODEL).embed_documents(texts)
rows, queries = vectors[:-QUERIES], vectors[-QUERIES:]
dimensions = rows.shape[1]
print(f"{len(rows):,} rows and {len(queries)} queries of {dimensions} dimensions")

# %% [markdown]
# ## Truth
#
# The ten nearest rows by the cosine of the floats; recall is the share of them that is found.

# %%
calibration = Calibration.fit(rows, model=PACKAGED_MODEL)
asked = calibration.prepared(queries)  # at unit length
truth = np.argsort(-(asked @ calibration.prepared(rows).T), axis=1)[:, :K]


def recall(found):
    """The share of the true rows (m, K) that is among those found (m, any number)."""
    return float(np.mean([np.isin(true, near).mean() for true, near in zip(truth, found, strict=True)]))


# %% [markdown]
# ## Levels
#
# One code holds all precisions: its top planes are the code of fewer bits. Queries stay floats.

# %%
codes = quantize(rows, calibration)
levels = Table("every row compared by", "bytes a vector", "recall@10", title="Levels")
levels.add_row("float32", str(4 * dimensions), "100.0%")
for name, planes in {"int8": 8, "int4": 4, "2 bits": 2, "binary": 1}.items():
    scores = score(codes, asked, calibration, planes=planes)
    found = np.argsort(-scores, axis=1)[:, :K]
    levels.add_row(name, str(planes * dimensions // 8), f"{recall(found):.1%}")
Console().print(levels)

# %% [markdown]
# ## Two steps
#
# A prefilter counts the bits that differ and keeps `oversampling` candidates for each hit; int8 codes rank those. The
# prefilter's bits are what an index holds: for 100 million rows of this model 4.8 GB of signs or 9.6 GB of ternary
# digits, in place of 153.6 GB of floats.


# %%
def two_steps(kept, asked_for, oversampling):
    """The K best rows (m, K) by int8, of the candidates whose bits are nearest."""
    candidates, _ = hamming_top_k(kept, asked_for, K * oversampling)
    scores = np.array(
        [score(codes[near], query, calibration)[0] for near, query in zip(candidates, asked, strict=True)]
    )
    best = np.argsort(-scores, axis=1)[:, :K]
    return np.take_along_axis(candidates, best, axis=1)


asked_codes = quantize(queries, calibration)
prefilters = {
    "signs": (codes[:, : dimensions // 8], asked_codes[:, : dimensions // 8]),
    "ternary": (ternary(codes, calibration), ternary(asked_codes, calibration)),
}
OVERSAMPLINGS = (1, 2, 4, 8)
steps = Table("prefilter", "bytes a vector", *(f"× {n}" for n in OVERSAMPLINGS), title="Recall@10 by oversampling")
for name, (kept, asked_for) in prefilters.items():
    recalls = [f"{recall(two_steps(kept, asked_for, n)):.1%}" for n in OVERSAMPLINGS]
    steps.add_row(name, str(kept.shape[1]), *recalls)
Console().print(steps)

# %% [markdown]
# The same for your own vectors, with more ways and confidence intervals: `qvec eval --sweep vectors.npy`.
