# Generated from qvec/client/_async/__init__.py by tools/async_to_sync.py: edit that file, then run `make sync`.
