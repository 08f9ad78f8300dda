"""The command in a separate process that can kill itself at a chosen function call."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

DRIVER = """
import importlib, itertools, os, signal, sys
from qvec.cli import main
from qvec.ingest import encoder, pipeline
from qvec.qdrant import loader
_, rows, seconds, moment, number = sys.argv[:5]
del sys.argv[1:5]
encoder._BATCH_BYTES = 4 * 8 * int(rows)
loader._CHECKPOINT_SECONDS = float(seconds)
pipeline._RETRY_SECONDS = (0.05,) * 20

def kill_at(moment, number):
    when, _, path = moment.partition(" ")
    module, _, name = path.partition(":")
    *holders, last = name.split(".")
    holder = importlib.import_module(module)
    for name in holders:
        holder = getattr(holder, name)
    real, numbers = getattr(holder, last), itertools.count(1)  # several threads count
    def killing(*arguments, **options):
        chosen = next(numbers) == number
        if chosen and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        if chosen and when == "during":
            signal.setitimer(signal.ITIMER_REAL, 0.3)
        result = real(*arguments, **options)
        if chosen and when == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(holder, last, killing)

if moment:
    kill_at(moment, int(number))
main()
"""
"""The command with small batches and frequent checkpoints; it can kill itself before, during or after the n-th call
of a function."""


def start_command(
    *arguments: Any, batch_rows: int, checkpoint_seconds: float = 0, moment: str = "", number: int = 1
) -> subprocess.Popen[str]:
    """Start the command in a separate process, with its output in pipes.

    `moment` is empty or "before module:name" ("during", "after"): the process kills itself at the `number`-th call of
    that function.
    """
    given = [str(batch_rows), str(checkpoint_seconds), moment, str(number), *map(str, arguments)]
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, *given],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    )


def run_command(*arguments: Any, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    process = start_command(*arguments, **options)
    out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)
