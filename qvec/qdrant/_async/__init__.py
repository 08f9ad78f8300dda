"""Written by hand; `qvec/qdrant/_sync` is generated from it."""
