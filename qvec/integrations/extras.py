"""What a missing framework is answered with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from qvec.errors import MissingExtraError


@contextmanager
def extra(name: str, module: str, package: str) -> Iterator[None]:
    """Raises MissingExtraError where imports inside find that `module` of `package` is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise
        raise MissingExtraError(package, name) from None
