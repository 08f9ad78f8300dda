"""python -m rag: read Markdown files into a collection, then answer questions about them."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

import click
import httpx
import uvicorn

import qvec
from qvec.client.urls import DEFAULT_URL
from qvec.embedding import PACKAGED_MODEL
from rag.answers import Answerer, Chat, Extractive
from rag.library import open_library
from rag.passages import Passage, read_passages
from rag.service import create_app

_PROJECT = Path(__file__).parents[2]
_ANSWER_SECONDS = 120
_SHUTDOWN_SECONDS = 5


@click.command()
@click.argument("sources", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--db", default=DEFAULT_URL, envvar="QVEC_DB", show_default=True, help="URL of the database.")
@click.option("--collection", default="rag", show_default=True, help="Name of the collection.")
@click.option("--model", default=PACKAGED_MODEL, show_default=True, help="Embedding model, or http://HOST:PORT/v1.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8000, show_default=True)
def main(sources: tuple[Path, ...], db: str, collection: str, model: str, host: str, port: int) -> None:
    """Read Markdown files, or folders of them, into a collection, and answer questions about them.

    Without SOURCES, read qvec's own README and docs. RAG_LLM_URL (http://HOST:PORT/v1), RAG_LLM_MODEL and RAG_LLM_KEY
    select a language model that writes the answers; without it an answer is a sentence of a passage.
    """
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    for stop_signal in (signal.SIGINT, signal.SIGTERM):  # SystemExit closes what is open, also during start-up
        signal.signal(stop_signal, lambda *_: sys.exit(0))
    try:
        passages = read_passages(sources or (_PROJECT / "README.md", _PROJECT / "docs"))
        asyncio.run(_serve(passages, db, collection, model, host, port))
    except qvec.QvecError as error:
        raise click.ClickException(str(error)) from None


async def _serve(passages: list[Passage], db: str, collection: str, model: str, host: str, port: int) -> None:
    async with await qvec.connect_async(db) as database, httpx.AsyncClient(timeout=_ANSWER_SECONDS) as client:
        library = await open_library(database, collection, model, passages)
        answerer: Answerer = Extractive(library)
        if llm_url := os.environ.get("RAG_LLM_URL"):
            answerer = Chat(client, llm_url, os.environ.get("RAG_LLM_MODEL", ""), os.environ.get("RAG_LLM_KEY"))
        config = uvicorn.Config(create_app(library, answerer), host, port, timeout_graceful_shutdown=_SHUTDOWN_SECONDS)
        await uvicorn.Server(config).serve()


if __name__ == "__main__":
    main()
