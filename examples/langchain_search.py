"""Search the documentation of Python's standard library with LangChain.

    python examples/langchain_search.py "How do I merge several sorted inputs into one?"

Needs: pip install 'qvec[demo,langchain]'
"""

from __future__ import annotations

from textwrap import shorten

import click

from qvec.embedding import PACKAGED_MODEL, load_embedder
from qvec.integrations.langchain import QvecEmbeddings, QvecVectorStore
from qvec.passages import stdlib_passages


@click.command()
@click.argument("question")
@click.option("--db", default="postgres:./qvec-data", show_default=True, help="URL of the database.")
@click.option("--passages", default=1000, show_default=True, help="Number of passages to embed.")
def main(question: str, db: str, passages: int) -> None:
    """Embed and store passages, then print three different ones that answer QUESTION."""
    chosen = stdlib_passages(passages)
    store = QvecVectorStore.from_texts(
        [passage.text for passage in chosen],
        QvecEmbeddings(load_embedder(PACKAGED_MODEL)),
        [{"module": passage.module, "title": passage.title} for passage in chosen],
        ids=[passage.id for passage in chosen],  # so that a second run replaces them
        db=db,
        collection="langchain_search",
        model=PACKAGED_MODEL,  # so that `qvec search` can embed questions too
    )
    not_asyncio = {"module": {"$ne": "asyncio"}}
    retriever = store.as_retriever(search_type="mmr", search_kwargs={"k": 3, "filter": not_asyncio})
    for document in retriever.invoke(question):
        print(f"{document.metadata['title']}\n    {shorten(document.page_content, 200)}\n")
    store.close()


if __name__ == "__main__":
    main()
