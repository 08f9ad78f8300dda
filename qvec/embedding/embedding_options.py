"""Which model embeds texts, with which prefixes; and which of that a collection stores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from qvec.errors import CollectionError, InputError

if TYPE_CHECKING:
    from qvec.calibration import Calibration

API_KEY = "QVEC_EMBEDDING_API_KEY"
"""The environment variable that holds the API key of an embedding server."""

_EXPECTED_ADDRESS = "http://HOST:PORT/v1 or https://HOST/v1"


def is_address(model: str) -> bool:
    """Tell whether a model's name is the address of an OpenAI-compatible server."""
    return model.lower().startswith(("http://", "https://"))


def check_address(url: str) -> None:
    """Raise InputError if a server's address is invalid or holds a secret; the error does not repeat the secret."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise InputError(f"this is not the address of an embedding server; expected {_EXPECTED_ADDRESS}") from None
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise InputError(
            f"the address of embedding server {host} holds more than {_EXPECTED_ADDRESS}; "
            f"leave out user, password and what follows a ?, and put the API key into {API_KEY}"
        )
    if not host or not parts.path.strip("/"):
        raise InputError(f"{url!r} is not the address of an embedding server; expected {_EXPECTED_ADDRESS}")


@dataclass(frozen=True)
class EmbeddingOptions:
    """How texts are embedded. None leaves a choice to the model: its own prompts, the server's only model.

    `model` is a sentence-transformers name or folder, or the address of an OpenAI-compatible server; `model_name` its
    name on that server. `task` is one of those on the model's card. Raise InputError for an address with a password or
    key in it, and for options of a server if `model` is not one.
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
                    f"--{option} {value} is for models on a server (--model http://HOST:PORT/v1), not for "
                    f"{self.model!r}; give the prefixes of any other model by --query-prefix and --document-prefix"
                )

    @classmethod
    def of(cls, model: str | EmbeddingOptions | None) -> EmbeddingOptions:
        """Return the options of a model that may be given by its name alone."""
        return model if isinstance(model, EmbeddingOptions) else cls(model)

    @property
    def on_server(self) -> bool:
        """Whether the model is on a server."""
        return self.model is not None and is_address(self.model)

    def over(self, stored: EmbeddingOptions) -> EmbeddingOptions:
        """Return these options, completed by the `stored` ones unless they are those of another model.

        A server with another address is taken for the same one, which has moved.
        """
        if self.model not in (None, stored.model) and not self._may_have_moved(stored):
            return self
        return replace(stored, **self.as_json())

    def first_difference(self, stored: EmbeddingOptions) -> tuple[str, Any, Any] | None:
        """Return the first option that is set here and differs from the `stored` one: name, value here, value there."""
        for name, value in self.as_json().items():
            found = getattr(stored, name)
            if value != found and not (name == "model" and self._may_have_moved(stored)):
                return name, value, found
        return None

    def _may_have_moved(self, stored: EmbeddingOptions) -> bool:
        return self.on_server and stored.on_server

    def as_json(self) -> dict[str, str]:
        """Return the options that are set."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any], collection: str) -> EmbeddingOptions:
        """Read what `as_json` wrote for a collection. Raise CollectionError if it is damaged or newer."""
        known = {name: stored[name] for name in cls.__dataclass_fields__ if name in stored}
        if len(known) < len(stored):
            raise CollectionError(
                f"collection {collection!r} was embedded with {', '.join(sorted(set(stored) - set(known)))}, which "
                "this qvec does not know; run: pip install -U qvec"
            )
        wrong = [name for name, value in known.items() if not isinstance(value, str)]
        if wrong:
            raise CollectionError(f"the embedding of collection {collection!r} is damaged: {wrong[0]} is not text")
        return cls(**known)


class EmbeddedCollection(Protocol):
    """The part of a collection that tells how its texts were embedded."""

    @property
    def name(self) -> str: ...

    @property
    def model(self) -> str | None: ...

    @property
    def embedding(self) -> Mapping[str, Any] | None: ...


def stored_embedding(collection: EmbeddedCollection) -> EmbeddingOptions:
    """Return what a collection stores of how its texts were embedded."""
    if collection.embedding is None:
        return EmbeddingOptions(collection.model)
    return EmbeddingOptions.from_json(collection.embedding, collection.name)


def embedding_to_store(embedding: EmbeddingOptions) -> Mapping[str, str] | None:
    """Return what a collection stores beside its model's name; None if the name says all."""
    stored = embedding.as_json()
    return stored if embedding.model and len(stored) > 1 else None


def choose_embedding(
    requested: EmbeddingOptions, collection: EmbeddedCollection | None, calibration: Calibration | None
) -> EmbeddingOptions:
    """Return the requested options, completed by those that the collection stores or its calibration names."""
    stored = stored_embedding(collection) if collection else EmbeddingOptions()
    chosen = requested.over(stored)
    if chosen.model is None and calibration is not None and calibration.model is not None:
        return chosen.over(EmbeddingOptions(calibration.model))
    return chosen


def check_embedding(requested: EmbeddingOptions, collection: EmbeddedCollection) -> None:
    """Raise CollectionError if the requested options differ from those that the collection stores."""
    stored = stored_embedding(collection)
    difference = requested.first_difference(stored) if stored.model else None
    if difference:
        name, wanted, found = difference
        shown = repr if name.endswith("prefix") else str
        raise CollectionError(f"collection {collection.name!r} has {name} {shown(found)}, not {shown(wanted)}")
