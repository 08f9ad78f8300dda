"""Collections on Qdrant, embedded or a server."""
