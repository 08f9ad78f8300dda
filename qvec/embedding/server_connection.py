"""HTTP requests to an embedding server: API key, retries, and the meaning of refusals."""

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
from urllib.parse import urlsplit

import httpx

from qvec.embedding.embedding_options import API_KEY
from qvec.errors import EmbeddingError, InputError
from qvec.forking import ProcessLocal

OPENAI_API_KEY = "OPENAI_API_KEY"
"""The environment variable whose key only OpenAI's own server gets: a collection may name any server."""

_OVERLOADED = (408, 409, 425, 429)
_WRONG_TEXTS = (400, 413, 422)
_MAX_CHARACTERS_SHOWN = 200
_REDACTED = "[redacted]"
_BEARER = re.compile(r"(\bBearer\s+)[^\s\"',;]+", re.IGNORECASE)
_TOO_LONG = ("too large", "too long", "context size", "context length", "maximum context")


@dataclass(frozen=True)
class RetryPolicy:
    """Timeouts and pauses in seconds."""

    answer_timeout: float = 300
    """For one answer: a large model on a CPU takes minutes for a batch."""
    connect_timeout: float = 10
    attempts: int = 8
    first_pause: float = 0.5
    """Before the second attempt; each further pause is twice as long."""
    max_pause: float = 30
    max_retry_after: float = 300
    """If a server asks for a longer pause, there is no other attempt."""


class RefusedError(Exception):
    """The server refused these texts, but may accept fewer, shorter or other ones. Holds the server's message."""


class ServerConnection:
    """Sends requests to one server, from several threads at once, and from forked processes."""

    def __init__(
        self, url: str, policy: RetryPolicy | None = None, environment: Mapping[str, str] = os.environ
    ) -> None:
        self.url = url.rstrip("/")
        self._policy = policy or RetryPolicy()
        self._answered = False
        self._key = api_key(url, environment)
        # Processes that share a socket would read each other's answers.
        self._client = ProcessLocal(
            partial(
                httpx.Client,
                headers={"User-Agent": "qvec"} | ({"Authorization": f"Bearer {self._key}"} if self._key else {}),
                timeout=httpx.Timeout(self._policy.answer_timeout, connect=self._policy.connect_timeout),
            )
        )
        weakref.finalize(self, _close, self._client)

    def get(self, path: str) -> Any:
        """Return the JSON of a page; None if the server does not have the page."""
        response = self._send("GET", path, None, threading.Event())
        return None if response.status_code in (404, 405, 501) else self._json(response)

    def post(self, path: str, body: Mapping[str, Any], stopped: threading.Event) -> Any:
        """Return the JSON that answers a request.

        Raise RefusedError if other texts may succeed, EmbeddingError for any other failure. Once `stopped` is set,
        there is no other attempt.
        """
        return self._json(self._send("POST", path, body, stopped))

    def redacted(self, message: str) -> str:
        """Return a server's message without the API key that it may repeat."""
        if self._key:
            message = message.replace(self._key, _REDACTED)
        return _BEARER.sub(rf"\1{_REDACTED}", message)

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None, stopped: threading.Event) -> httpx.Response:
        """Return the first response that needs no other attempt, or the last one."""
        for attempt in range(1, self._policy.attempts + 1):
            last = attempt == self._policy.attempts
            try:
                response = self._client().request(method, f"{self.url}/{path}", json=body)
            except httpx.TransportError as error:
                # If it never answered, its address is more likely misspelt than the server restarting.
                unknown = isinstance(error, httpx.ConnectError) and not self._answered
                if last or unknown or stopped.wait(self._pause(attempt)):
                    raise self._unreachable(error, attempt) from None
                continue
            self._answered = True
            if last or not _is_temporary(response) or stopped.wait(self._requested_pause(response, attempt)):
                return response
        raise AssertionError("the last attempt returns or raises")

    def _pause(self, attempt: int) -> float:
        """Return a pause that about doubles with each attempt, at random, so that clients do not return all at once."""
        pause: float = min(self._policy.first_pause * 2 ** (attempt - 1), self._policy.max_pause)
        return pause * random.uniform(0.5, 1)

    def _requested_pause(self, response: httpx.Response, attempt: int) -> float:
        """Return the pause that the server asks for, but not less than ours: many ask for 0 s whatever their load."""
        requested = retry_after(response.headers.get("Retry-After"), time.time()) or 0
        if requested > self._policy.max_retry_after:
            raise EmbeddingError(
                f"embedding server {self.url} asks to come back in {requested:,.0f} s (status {response.status_code}); "
                "run again then"
            )
        return max(requested, self._pause(attempt))

    def _json(self, response: httpx.Response) -> Any:
        if response.status_code != 200:
            raise self._refusal(response)
        try:
            return response.json()
        except ValueError:
            raise EmbeddingError(f"embedding server {self.url} answers with something that is not JSON") from None

    def _refusal(self, response: httpx.Response) -> Exception:
        status = response.status_code
        if status in (401, 403):
            what = "refuses the API key" if self._key else "needs an API key"
            return EmbeddingError(f"embedding server {self.url} {what} (status {status}); put it into {API_KEY}")
        message = self.redacted(_message(response))[:_MAX_CHARACTERS_SHOWN]
        if status in _WRONG_TEXTS or _is_too_long(response):
            return RefusedError(message)
        if response.is_redirect:
            message = "it has moved; give the address that it redirects to"
        return EmbeddingError(f"embedding server {self.url} answers with status {status}: {message}")

    def _unreachable(self, error: httpx.TransportError, attempts: int) -> EmbeddingError:
        reason = self.redacted(str(error)) or type(error).__name__
        times = f", {attempts} times" if attempts > 1 else ""
        return EmbeddingError(f"embedding server {self.url} does not answer{times}: {reason}")


def _close(client: ProcessLocal[httpx.Client]) -> None:
    made = client.if_made()
    if made is not None:
        made.close()


def api_key(url: str, environment: Mapping[str, str]) -> str | None:
    """Return the API key for a server from the environment. Raise InputError if it holds invalid characters."""
    parts = urlsplit(url)
    is_openai = parts.scheme == "https" and parts.hostname == "api.openai.com"
    for variable in (API_KEY, OPENAI_API_KEY) if is_openai else (API_KEY,):
        key = environment.get(variable, "").strip()
        if not key:
            continue
        if not (key.isascii() and key.isprintable()):
            raise InputError(f"{variable} holds characters that an API key cannot have")
        return key
    return None


def retry_after(header: str | None, now: float) -> float | None:
    """Return the seconds that a Retry-After header asks for, as a number or as a date (RFC 9110, 10.2.3)."""
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


def _is_temporary(response: httpx.Response) -> bool:
    """Tell whether the same request may succeed later."""
    return response.status_code in _OVERLOADED or (response.status_code >= 500 and not _is_too_long(response))


def _is_too_long(response: httpx.Response) -> bool:
    """Tell whether a text is too long, for which llama-server answers with status 500."""
    return response.status_code == 500 and any(words in _message(response).lower() for words in _TOO_LONG)


def _message(response: httpx.Response) -> str:
    """Return the message of a refusal as one printable line."""
    try:
        found = response.json()
        for name in ("error", "message", "detail"):
            found = found[name] if isinstance(found, dict) and name in found else found
        text = found if isinstance(found, str) else response.text
    except ValueError:
        text = response.text
    line = " ".join(text.split())
    return "".join(filter(str.isprintable, line)) or response.reason_phrase
