"""Where a document store's database is, and how that is written down."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import parse_qs

from haystack.utils import Secret

from qvec.errors import InputError

if TYPE_CHECKING:
    from qvec.integrations.target import Database

    Address: TypeAlias = str | Secret | Database


def resolved(db: Address) -> str | Database:
    """The URL that a secret holds, or what was given."""
    if not isinstance(db, Secret):
        return db
    url = db.resolve_value()
    if not isinstance(url, str):
        raise InputError("the secret of the database's URL is empty; set the variable that it names")
    return url


def to_json(db: Address) -> Any:
    """What a serialized pipeline holds of it. Raises InputError for a password in the open and for an open database."""
    if isinstance(db, Secret):
        return db.to_dict()
    if not isinstance(db, str):
        raise InputError("a store on an open database cannot be serialized; give the database's URL")
    if _holds_password(db):
        raise InputError("the database's URL holds a password; give it as Secret.from_env_var('VARIABLE') instead")
    return db


def from_json(value: Any) -> Any:
    return Secret.from_dict(value) if isinstance(value, dict) else value


def _holds_password(url: str) -> bool:
    credentials, _, place = url.partition("://")[2].rpartition("@")
    return ":" in credentials or bool({"password", "sslpassword"} & parse_qs(place.partition("?")[2]).keys())
