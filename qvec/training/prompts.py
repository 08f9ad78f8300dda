"""How a model is told what a text is: the same in training as when qvec embeds texts to measure, store and search."""

from __future__ import annotations

from typing import Any, Literal

from sentence_transformers.base.modules import Router

from qvec.training.pairs import Pairs

Kind = Literal["query", "document"]

_PROMPTS: dict[Kind, tuple[str, ...]] = {"query": ("query",), "document": ("document", "passage", "corpus")}
"""Names of prompts in the order in which `encode_query` and `encode_document` look for them."""


def kinds_of(pairs: Pairs) -> dict[str, Kind]:
    """What the texts of each column are: queries in the first, documents in the others.

    A score says how alike two texts are, whichever comes first, so both are embedded as what is stored: documents.
    """
    first, *others = pairs.texts
    return {first: "query" if pairs.scores is None else "document", **dict.fromkeys(others, "document")}


def trainer_arguments(model: Any, pairs: Pairs) -> dict[str, Any]:
    """What makes sentence-transformers' trainer embed each column as `encode_query` and `encode_document` would.

    Models that have a Router embed queries and documents each by modules of their own.
    """
    kinds = kinds_of(pairs)
    prompts = {column: _prompt(model, kind) for column, kind in kinds.items()}
    routed = any(isinstance(module, Router) for module in model.children())
    return {
        "prompts": {column: prompt for column, prompt in prompts.items() if prompt} or None,
        "router_mapping": kinds if routed else None,
    }


def _prompt(model: Any, kind: Kind) -> str | None:
    name = next((name for name in _PROMPTS[kind] if name in model.prompts), model.default_prompt_name)
    return None if name is None else model.prompts[name]
