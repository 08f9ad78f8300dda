"""Run every benchmark with tiny sizes, to show that it works: nothing is measured. Fails if one of them fails.

Run: python benchmarks/smoke.py [NAME ...], e.g. sdk quality/levels
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
MAX_SECONDS = 600
"""Of one benchmark; even a busy machine needs less."""
_SINGLE_THREADED = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}
"""As many benchmarks run at once as there are cores."""


@dataclass(frozen=True)
class Outcome:
    name: str
    seconds: float
    failed: bool
    output: str


def main() -> None:
    names = sys.argv[1:] or sorted(find_benchmarks())
    started = time.perf_counter()
    failed = []
    with ThreadPoolExecutor(os.cpu_count()) as executor:
        for future in as_completed([executor.submit(run, name) for name in names]):
            outcome = future.result()
            print(f"{'FAILED' if outcome.failed else 'ok':7}{outcome.seconds:6.1f} s  {outcome.name}", flush=True)
            for line in outcome.output.splitlines():
                if outcome.failed or line.startswith("not run:"):
                    print(f"    {line}", flush=True)
            failed += [outcome.name] if outcome.failed else []
    print(f"{len(names)} benchmarks in {time.perf_counter() - started:.0f} s")
    if failed:
        raise SystemExit(f"failed: {', '.join(sorted(failed))}")


def find_benchmarks() -> list[str]:
    """Return the names of the scripts in this folder and its subfolders, without the modules that they share."""
    scripts = (path for path in FOLDER.rglob("*.py") if "\nif __name__ ==" in path.read_text(encoding="utf-8"))
    return [path.relative_to(FOLDER).with_suffix("").as_posix() for path in scripts if path != Path(__file__)]


def run(name: str) -> Outcome:
    started = time.perf_counter()
    command = [sys.executable, str(FOLDER / f"{name}.py"), "--smoke"]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **_SINGLE_THREADED},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=MAX_SECONDS,
        )
        failed, output = done.returncode != 0, done.stdout
    except subprocess.TimeoutExpired:
        failed, output = True, f"did not end within {MAX_SECONDS} s"
    return Outcome(name, time.perf_counter() - started, failed, output)


if __name__ == "__main__":
    main()
