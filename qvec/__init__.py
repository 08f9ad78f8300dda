"""Quantized vectors for Postgres and Qdrant."""
