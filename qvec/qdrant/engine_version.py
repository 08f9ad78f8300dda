"""The version of Qdrant that holds a collection: it decides what can be asked of it, whatever the client knows."""

from __future__ import annotations

import re
from typing import NamedTuple

_NUMBERS = re.compile(r"v?(\d+)\.(\d+)")


class EngineVersion(NamedTuple):
    """The first two numbers of a version."""

    major: int
    minor: int

    @classmethod
    def parse(cls, version: str) -> EngineVersion:
        """Read what a server reports, such as 1.19.0. What begins otherwise counts as the newest version."""
        found = _NUMBERS.match(version)
        return cls(int(found[1]), int(found[2])) if found else NEWEST

    @property
    def keeps_metadata(self) -> bool:
        """Whether collections have metadata, where qvec describes them."""
        return self >= (1, 16)

    @property
    def has_turbo_prefilters(self) -> bool:
        """Whether TurboQuant can be a quantization in memory."""
        return self >= (1, 18)

    @property
    def finds_prefixes(self) -> bool:
        return self >= (1, 19)

    @property
    def finds_substrings(self) -> bool:
        return self >= (1, 20)

    @property
    def has_turbo_vectors(self) -> bool:
        """Whether vectors can be stored as turbo8 and turbo16."""
        return self >= (1, 20)

    @property
    def ranks_texts(self) -> bool:
        """Whether documents can be ranked by their words."""
        return self >= (1, 20)


NEWEST = EngineVersion(1, 20)
"""The newest version that qvec knows; the embedded engine is as new."""


def version_warning(version: str) -> str | None:
    """Return a warning about what a server of this version lacks, if anything."""
    engine = EngineVersion.parse(version)
    if not engine.keeps_metadata:
        return f"Qdrant {version} keeps no metadata of collections, which qvec needs; upgrade Qdrant to 1.16 or newer"
    lacks = {
        "TurboQuant prefilters, among them the default": engine.has_turbo_prefilters,
        "searches by words": engine.ranks_texts,
        "the precisions turbo8 and turbo16": engine.has_turbo_vectors,
        "conditions for every $like": engine.finds_substrings,
    }
    missing = [name for name, has in lacks.items() if not has]
    if not missing:
        return None
    return f"Qdrant {version} lacks {', '.join(missing)}; upgrade Qdrant to {NEWEST.major}.{NEWEST.minor} or newer"
