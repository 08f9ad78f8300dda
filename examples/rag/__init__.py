"""A small RAG service on qvec: Markdown files in, answers with sources out."""
