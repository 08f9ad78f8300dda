"""Which model embeds, and how it is told questions from documents: what a collection stores of its embedding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from qvec.embedding.address import check_address, is_address
from qvec.errors import CollectionError, InputError


@dataclass(frozen=True)
class EmbeddingOptions:
    """How texts become vectors. None leaves a choice to the model: its own prompts, the server's only model.

    `model` is a sentence-transformers name or folder, or the address of an OpenAI-compatible server; `model_name` its
    name on that server. `task` is one of those that the model's card names. Raises InputError for an address with a
    password or key in it, and for options of a server where there is none.
    """

    model: str | None = None
    model_name: str | None = None
    task: str | None = None
    query_prefix: str | None = None
    document_prefix: str | None = None

    def __post_init__(self) -> None:
        if self.model is None:
            return
        if self.on_server:
            check_address(self.model)
            return
        for option, value in (("model-name", self.model_name), ("task", self.task)):
            if value is not None:
                raise InputError(
                    f"--{option} {value} is for models on a server (--model http://HOST:PORT/v1), and {self.model!r} "
                    "is none; the prefixes of any model are --query-prefix and --document-prefix"
                )

    @classmethod
    def of(cls, model: str | EmbeddingOptions | None) -> EmbeddingOptions:
        """Options of a model that may be given by its name alone."""
        return model if isinstance(model, EmbeddingOptions) else cls(model)

    @property
    def on_server(self) -> bool:
        """Whether the model is asked over HTTP."""
        return self.model is not None and is_address(self.model)

    def over(self, stored: EmbeddingOptions) -> EmbeddingOptions:
        """These, and for what they leave open the `stored` ones; a server may have moved, another model has its own."""
        moved = self.on_server and stored.on_server
        if self.model not in (None, stored.model) and not moved:
            return self
        return replace(stored, **self.as_json())

    def differing(self, stored: EmbeddingOptions) -> tuple[str, Any, Any] | None:
        """The first option given here that is not the `stored` one: its name, and both. A server may have moved."""
        for name, asked in self.as_json().items():
            found = getattr(stored, name)
            moved = name == "model" and self.on_server and stored.on_server
            if asked != found and not moved:
                return name, asked, found
        return None

    def as_json(self) -> dict[str, str]:
        """Those that are set."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any], collection: str) -> EmbeddingOptions:
        """Reads what `as_json` wrote for a collection. Raises CollectionError where it is damaged or newer."""
        known = {name: stored[name] for name in cls.__dataclass_fields__ if name in stored}
        if len(known) < len(stored):
            raise CollectionError(
                f"collection {collection!r} was embedded with {', '.join(sorted(set(stored) - set(known)))}, which "
                "this qvec does not know; run: pip install -U qvec"
            )
        wrong = [name for name, value in known.items() if not isinstance(value, str)]
        if wrong:
            raise CollectionError(f"the embedding of collection {collection!r} is damaged: {wrong[0]} is no text")
        return cls(**known)
