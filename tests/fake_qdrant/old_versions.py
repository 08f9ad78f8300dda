"""What servers of old versions do with requests that only newer ones know.

A parser of protocol buffers skips fields that it does not know, so a setting is ignored and a condition is empty.
"""

from __future__ import annotations

import re
from typing import Any

from qdrant_client import grpc as messages

from .status_errors import bad_input

_CONDITIONS = {"prefix": (1, 19), "substring": (1, 20)}
_NEW_DATATYPES = (messages.Datatype.Turbo8, messages.Datatype.Turbo16)


def forget_newer_fields(request: Any, version: str) -> None:
    """Change a request to what a server of this version reads. Raise the error for what it refuses then."""
    major, minor = (int(number) for number in version.split(".")[:2])
    number = (major, minor)
    for name, since in _CONDITIONS.items():
        if number < since and re.search(rf"^ *match {{\s*{name}: ", str(request), re.MULTILINE):
            raise bad_input("Malformed Match condition")
    if isinstance(request, messages.CreateCollection):
        _forget_settings(request, number)
    elif isinstance(request, messages.CreateFieldIndexCollection) and number < (1, 20):
        request.field_index_params.text_index_params.ClearField("scoring")


def _forget_settings(request: Any, number: tuple[int, int]) -> None:
    if number < (1, 20) and request.vectors_config.params.datatype in _NEW_DATATYPES:
        raise bad_input("unknown datatype")
    if number < (1, 18) and request.quantization_config.HasField("turboquant"):
        request.ClearField("quantization_config")
    if number < (1, 16):
        request.metadata.clear()
