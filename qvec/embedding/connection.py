"""HTTP to a server of embeddings: what is asked again and when, and what its refusals mean."""

from __future__ import annotations

import os
import random
import re
import threading
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any

import httpx

from qvec.embedding.address import KEY, key_for
from qvec.errors import EmbeddingError
from qvec.forking import OwnValue

_OVERLOADED = (408, 409, 425, 429)
_NOT_THESE_TEXTS = (400, 413, 422)
_MOST_SHOWN = 200
_REDACTED = "[redacted]"
_BEARER = re.compile(r"(\bBearer\s+)[^\s\"',;]+", re.IGNORECASE)
_TOO_LONG = ("too large", "too long", "context size", "context length", "maximum context")


@dataclass(frozen=True)
class Patience:
    """How long a server is waited for, in seconds."""

    answer: float = 300
    """For one answer: a large model on a CPU takes minutes for a batch."""
    connect: float = 10
    attempts: int = 8
    first_pause: float = 0.5
    """Before the second attempt; each further pause is twice as long."""
    longest_pause: float = 30
    longest_asked: float = 300
    """A server that asks for a longer pause is not waited for."""


class RefusedError(Exception):
    """The server refused these very texts, and may take fewer, shorter or other ones. Holds what it says."""


class Connection:
    """Sends requests to one server, from several threads at once, and from forked processes."""

    def __init__(self, url: str, patience: Patience | None = None, environment: Mapping[str, str] = os.environ) -> None:
        self.url = url.rstrip("/")
        self._patience = patience or Patience()
        self._answered = False
        self._key = key_for(url, environment)
        # Over one socket, processes would take each other's answers.
        self._client = OwnValue(
            partial(
                httpx.Client,
                headers={"User-Agent": "qvec"} | ({"Authorization": f"Bearer {self._key}"} if self._key else {}),
                timeout=httpx.Timeout(self._patience.answer, connect=self._patience.connect),
            )
        )
        weakref.finalize(self, _close, self._client)

    def get(self, path: str) -> Any:
        """The JSON of a page; None where the server has no such page."""
        response = self._send("GET", path, None, threading.Event())
        return None if response.status_code in (404, 405, 501) else self._json(response)

    def post(self, path: str, body: Mapping[str, Any], stopped: threading.Event) -> Any:
        """The JSON that answers a request. Raises RefusedError where other texts may succeed; see `EmbeddingError`.

        Once `stopped` is set, nothing is asked again.
        """
        return self._json(self._send("POST", path, body, stopped))

    def redacted(self, said: str) -> str:
        """What a server says, without the API key that it may repeat."""
        known = said.replace(self._key, _REDACTED) if self._key else said
        return _BEARER.sub(rf"\1{_REDACTED}", known)

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None, stopped: threading.Event) -> httpx.Response:
        """The first answer that is not worth another attempt, or the last."""
        for attempt in range(1, self._patience.attempts + 1):
            last = attempt == self._patience.attempts
            try:
                response = self._client().request(method, f"{self.url}/{path}", json=body)
            except httpx.TransportError as error:
                # A server that never answered is more likely misspelt than restarting.
                unknown = isinstance(error, httpx.ConnectError) and not self._answered
                if last or unknown or stopped.wait(self._pause(attempt)):
                    raise self._unreachable(error, attempt) from None
                continue
            self._answered = True
            if last or not _passes(response) or stopped.wait(self._asked_pause(response, attempt)):
                return response
        raise AssertionError("the last attempt returns or raises")

    def _pause(self, attempt: int) -> float:
        """About twice as long each time, so that clients do not come back all at once."""
        pause: float = min(self._patience.first_pause * 2 ** (attempt - 1), self._patience.longest_pause)
        return pause * random.uniform(0.5, 1)

    def _asked_pause(self, response: httpx.Response, attempt: int) -> float:
        """What the server asks for, but no less than our own: many servers ask for 0 s whatever the load."""
        asked = retry_after(response.headers.get("Retry-After"), time.time()) or 0
        if asked > self._patience.longest_asked:
            raise EmbeddingError(
                f"embedding server {self.url} asks to come back in {asked:,.0f} s (status {response.status_code}); "
                "run again then"
            )
        return max(asked, self._pause(attempt))

    def _json(self, response: httpx.Response) -> Any:
        if response.status_code != 200:
            raise self._refusal(response)
        try:
            return response.json()
        except ValueError:
            raise EmbeddingError(f"embedding server {self.url} answers with something that is no JSON") from None

    def _refusal(self, response: httpx.Response) -> Exception:
        status = response.status_code
        if status in (401, 403):
            what = "refuses the API key" if self._key else "wants an API key"
            return EmbeddingError(f"embedding server {self.url} {what} (status {status}); put it into {KEY}")
        said = self.redacted(_said(response))[:_MOST_SHOWN]
        if status in _NOT_THESE_TEXTS or _is_too_long(response):
            return RefusedError(said)
        if response.is_redirect:
            said = "it is elsewhere; give the address that it redirects to"
        return EmbeddingError(f"embedding server {self.url} answers with status {status}: {said}")

    def _unreachable(self, error: httpx.TransportError, attempts: int) -> EmbeddingError:
        reason = self.redacted(str(error)) or type(error).__name__
        tries = f", {attempts} times" if attempts > 1 else ""
        return EmbeddingError(f"embedding server {self.url} does not answer{tries}: {reason}")


def _close(client: OwnValue[httpx.Client]) -> None:
    made = client.if_made()
    if made is not None:
        made.close()


def retry_after(header: str | None, now: float) -> float | None:
    """Seconds that a Retry-After header asks for, as a number or as a date (RFC 9110, 10.2.3); None for none."""
    if not header:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - now)
    except ValueError:
        return None


def _passes(response: httpx.Response) -> bool:
    """Whether the same request may succeed later."""
    return response.status_code in _OVERLOADED or (response.status_code >= 500 and not _is_too_long(response))


def _is_too_long(response: httpx.Response) -> bool:
    """llama-server says with status 500 that a text is longer than its batch."""
    return response.status_code == 500 and any(words in _said(response).lower() for words in _TOO_LONG)


def _said(response: httpx.Response) -> str:
    """What a refusal says, as one printable line."""
    try:
        found = response.json()
        for name in ("error", "message", "detail"):
            found = found[name] if isinstance(found, dict) and name in found else found
        text = found if isinstance(found, str) else response.text
    except ValueError:
        text = response.text
    line = " ".join(text.split())
    return "".join(filter(str.isprintable, line)) or response.reason_phrase
