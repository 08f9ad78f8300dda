# %% [markdown]
# # What quantizing costs
#
# This example embeds documentation strings of Python's standard library with a small model and searches them at every
# precision. It shows how many bytes of a vector are kept, and how many of the ten nearest rows a search then finds. It
# needs no database; a collection does the same, with an index instead of scans.
#
# Run `pip install 'qvec[demo]'`, then the cells one by one, or all of them with `python examples/quality.py`. It takes
# less time with fewer passages: `PASSAGES=500 python examples/quality.py`.

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
# The last passages serve as questions; they are not among the rows.

# %%
texts = [passage.text for passage in stdlib_passages(PASSAGES + QUERIES)]
vectors = load_embedder(PACKAGED_MODEL).embed_documents(texts)
rows, queries = vectors[:-QUERIES], vectors[-QUERIES:]
dimensions = rows.shape[1]
print(f"{len(rows):,} rows and {len(queries)} queries of {dimensions} dimensions")

# %% [markdown]
# ## Truth
#
# The exact result is the ten nearest rows by cosine of the floats. Recall is the share of them that a search finds.

# %%
calibration = Calibration.fit(rows, model=PACKAGED_MODEL)
asked = calibration.prepared(queries)  # at unit length
truth = np.argsort(-(asked @ calibration.prepared(rows).T), axis=1)[:, :K]


def recall(found):
    """Return the share of the true rows (m, K) among the found ones (m, any number)."""
    return float(np.mean([np.isin(true, near).mean() for true, near in zip(truth, found, strict=True)]))


# %% [markdown]
# ## Levels
#
# One code contains all precisions: its top planes are the code with fewer bits. Queries stay floats.

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
# A prefilter counts differing bits and keeps `oversampling` candidates for each hit; int8 codes then rank the
# candidates. An index stores only the prefilter's bits: for 100 million rows of this model, 4.8 GB of sign bits or
# 9.6 GB of ternary codes instead of 153.6 GB of floats.


# %%
def two_steps(kept, asked_for, oversampling):
    """Return the K best rows (m, K) by int8 among the candidates with the nearest bits."""
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
# For your own vectors, `qvec eval --sweep vectors.npy` compares more search configurations, with confidence intervals.
