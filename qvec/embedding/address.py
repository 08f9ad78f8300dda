"""The address of an OpenAI-compatible server."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from qvec.errors import InputError

KEY = "QVEC_EMBEDDING_API_KEY"
"""The variable that holds the API key."""
OPENAI_KEY = "OPENAI_API_KEY"
"""The variable whose key OpenAI's own server gets, and no other: a collection's description may name any server."""

_EXPECTED = "http://HOST:PORT/v1 or https://HOST/v1"


def is_address(model: str) -> bool:
    """Whether a model is named by the address of a server."""
    return model.lower().startswith(("http://", "https://"))


def check_address(url: str) -> None:
    """Raises InputError for an address that is none or holds a secret, without repeating the secret."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise InputError(f"this is no address of an embedding server; expected {_EXPECTED}") from None
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise InputError(
            f"the address of embedding server {host} holds more than {_EXPECTED}; "
            f"leave out user, password and what follows a ?, and put the API key into {KEY}"
        )
    if not host or not parts.path.strip("/"):
        raise InputError(f"{url!r} is no address of an embedding server; expected {_EXPECTED}")


def key_for(url: str, environment: Mapping[str, str]) -> str | None:
    """The API key that a server gets, from the environment. Raises InputError for what can be no key."""
    parts = urlsplit(url)
    is_openai = parts.scheme == "https" and parts.hostname == "api.openai.com"
    for variable in (KEY, OPENAI_KEY) if is_openai else (KEY,):
        key = environment.get(variable, "").strip()
        if not key:
            continue
        if not (key.isascii() and key.isprintable()):
            raise InputError(f"{variable} holds characters that no API key has")
        return key
    return None
