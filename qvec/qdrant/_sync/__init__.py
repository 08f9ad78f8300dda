# Generated from qvec/qdrant/_async/__init__.py by tools/async_to_sync.py: edit that file, then run `make sync`.
"""Written by hand; `qvec/qdrant/_sync` is generated from it."""
