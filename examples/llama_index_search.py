"""Search the documentation of Python's standard library with LlamaIndex.

    python examples/llama_index_search.py "How do I merge several sorted inputs into one?"

Needs: pip install 'qvec[demo,llama-index]'
"""

from __future__ import annotations

from textwrap import shorten

import click
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores.types import FilterOperator, MetadataFilter, MetadataFilters

from qvec.embedding import PACKAGED_MODEL, load_embedder
from qvec.integrations.llama_index import QvecEmbedding, QvecVectorStore
from qvec.passages import stdlib_passages


@click.command()
@click.argument("question")
@click.option("--db", default="postgres:./qvec-data", show_default=True, help="URL of the database.")
@click.option("--passages", default=1000, show_default=True, help="Number of passages to embed.")
def main(question: str, db: str, passages: int) -> None:
    """Embed and store passages, then print the three closest to QUESTION."""
    nodes = [
        TextNode(id_=passage.id, text=passage.text, metadata={"module": passage.module, "title": passage.title})
        for passage in stdlib_passages(passages)
    ]
    store = QvecVectorStore.from_params(db, "llama_index_search", model=PACKAGED_MODEL)
    index = VectorStoreIndex(
        nodes,
        storage_context=StorageContext.from_defaults(vector_store=store),
        embed_model=QvecEmbedding(load_embedder(PACKAGED_MODEL)),
    )
    not_asyncio = MetadataFilter(key="module", value="asyncio", operator=FilterOperator.NE)
    retriever = index.as_retriever(similarity_top_k=3, filters=MetadataFilters(filters=[not_asyncio]))
    for found in retriever.retrieve(question):
        print(f"{found.score:.3f}  {found.metadata['title']}\n    {shorten(found.text, 200)}\n")
    store.close()


if __name__ == "__main__":
    main()
