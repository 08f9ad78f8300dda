"""The RAG example as a program: its page in a browser, its start and its stop."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from chat_server import ChatServer, serving_chat
from embedding_server import EmbeddingServer, Vectors, serving

EXAMPLES = Path(__file__).parents[1] / "examples"
NEEDED = ("fastapi", "uvicorn", "markdown_it", "playwright")
if not all(map(importlib.util.find_spec, NEEDED)):
    pytest.skip("needs qvec[embedded,examples] and playwright", allow_module_level=True)
CHROMIUM = shutil.which("chromium")


def needs_browser(test: Callable[..., None]) -> Callable[..., None]:
    skipped = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
    return pytest.mark.slow(skipped(test))


NOTE = """# Bees

In winter the colony lives on its honey.

## Markup

Danger is an <img src=x onerror="document.title='owned'"> and a <script>document.title='owned'</script>.

A-very-long-word-%s.
""" % ("x" * 300)
CONTRAST = """() => {
  const luminance = (color) => {
    const [r, g, b] = color.match(/[0-9.]+/g).slice(0, 3).map((c) => c / 255)
      .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    const color = getComputedStyle(element).backgroundColor;
    return color === "rgba(0, 0, 0, 0)" ? behind(element.parentElement) : color;
  };
  document.getElementById("error").hidden = false;
  const texts = "h1, .quiet, label, input, button, #text, #text a, #error, summary, pre";
  return [...document.querySelectorAll(texts)].map((element) => {
    const [a, b] = [getComputedStyle(element).color, behind(element)].map(luminance).sort((x, y) => y - x);
    return [element.tagName + "#" + element.id, (a + 0.05) / (b + 0.05)];
  });
}"""
"""Returns the contrast of each text to its background, by the formula of WCAG 2."""


@pytest.fixture(scope="module")
def chat() -> Iterator[ChatServer]:
    with serving_chat() as server:
        yield server


def count_words(texts: Sequence[str]) -> Vectors:
    """Embed texts by counting their words in 64 buckets; loading a real model takes the service many seconds."""
    vectors = np.zeros((len(texts), 64), np.float32)
    for vector, text in zip(vectors, texts, strict=True):
        for word in re.findall(r"\w+", text.lower()):
            vector[zlib.crc32(word.encode()) % 64] += 1
    return vectors


@pytest.fixture(scope="module")
def model_url() -> Iterator[str]:
    with serving(EmbeddingServer(count_words)) as server:
        yield server.url


@pytest.fixture(scope="module")
def started(
    tmp_path_factory: pytest.TempPathFactory, chat: ChatServer, model_url: str
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The service as a process that uses the chat server: its URL and its process."""
    folder = tmp_path_factory.mktemp("rag")
    (folder / "notes").mkdir()
    (folder / "notes" / "bees.md").write_text(NOTE)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "rag", str(folder / "notes"), "--db", f"qdrant:{folder / 'data'}"]
    process = subprocess.Popen(
        [*command, "--model", model_url, "--port", str(port)],
        cwd=EXAMPLES,
        env={**os.environ, "RAG_LLM_URL": chat.url, "RAG_LLM_MODEL": "small"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(url, process)
        yield url, process
    finally:
        process.kill()
        process.communicate()


def wait_for(url: str, process: subprocess.Popen[str], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert process.poll() is None, process.communicate()[1]
        try:
            httpx.get(f"{url}/health", trust_env=False).raise_for_status()
            return
        except httpx.ConnectError:
            time.sleep(0.1)
    raise AssertionError(f"the service did not start in {seconds} seconds")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Chromium's sandbox does not start for root, which runs tests in containers.
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def open_page(browser: Any, started: tuple[str, Any]) -> Iterator[Callable[..., Any]]:
    """Opens the page; afterwards checks that no script failed and no other host was contacted."""
    pages, errors = [], []

    def open_path(path: str = "/", **options: Any) -> Any:
        page = browser.new_page(**options)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: request.url.startswith(started[0]) or errors.append(request.url))
        page.goto(started[0] + path)
        pages.append(page)
        return page

    yield open_path
    for page in pages:
        page.close()
    assert errors == []


@needs_browser
def test_ask_by_keyboard(open_page: Callable[..., Any], chat: ChatServer) -> None:
    chat.set_answer("On ", "honey [", "1", "].")
    page = open_page()
    page.wait_for_selector("#service:text-is('2 passages; answers: small')")
    page.keyboard.type("What do bees eat in winter?")
    page.keyboard.press("Enter")
    page.wait_for_selector("details.cited")
    assert page.inner_text("#text") == "On honey [1]."
    assert page.locator("#passage-1").get_attribute("open") is not None
    assert "In winter the colony lives on its honey." in page.inner_text("#passage-1")
    assert page.url.endswith("?q=What+do+bees+eat+in+winter%3F")
    page.keyboard.press("Tab")  # from the field to the button, then to the link in the answer
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('href')") == "#passage-1"


@needs_browser
def test_texts_are_never_rendered_as_html(open_page: Callable[..., Any], chat: ChatServer) -> None:
    attack = "<img src=x onerror=\"document.title='owned'\">"
    chat.set_answer(attack, " [1]")
    page = open_page("/?q=" + "danger <b>bold</b>")
    page.wait_for_selector("details.cited")
    assert page.inner_text("#text") == f"{attack} [1]"
    assert 'onerror="document.title' in page.locator("#files").text_content()
    assert page.locator("main img, main script, main b").count() == 0
    assert page.title() == "Ask your notes"


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1200])
def test_page_is_readable(open_page: Callable[..., Any], chat: ChatServer, scheme: str, width: int) -> None:
    chat.set_answer("y" * 200 + " [1]")
    page = open_page("/?q=very+long+word", viewport={"width": width, "height": 640}, color_scheme=scheme)
    page.wait_for_selector("details.cited")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    contrasts = page.evaluate(CONTRAST)
    assert len(contrasts) >= 12
    assert {name: contrast for name, contrast in contrasts if contrast < 4.5} == {}
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 24, 31)"
    assert dark == (scheme == "dark")


@needs_browser
def test_errors_are_shown(open_page: Callable[..., Any], chat: ChatServer) -> None:
    chat.set_failure(503, '{"error": {"message": "the model is asleep"}}')
    page = open_page("/?q=bees")
    page.wait_for_selector("#error:not([hidden])")
    assert page.inner_text("[role=alert]").endswith("answered 503: the model is asleep")
    chat.set_answer("Honey.")
    page.click("#ask")
    page.wait_for_selector("#text:text-is('Honey.')")
    assert page.is_hidden("#error")
    page.route("**/ask", lambda route: route.abort())
    page.click("#ask")
    page.wait_for_selector("#error:not([hidden])")


def test_answer_arrives_in_pieces(started: tuple[str, Any], chat: ChatServer) -> None:
    send_rest = threading.Event()
    chat.set_answer("First ", send_rest, "and last.")
    body = {"question": "bees", "stream": True}
    with httpx.stream("POST", f"{started[0]}/ask", json=body, timeout=30, trust_env=False) as response:
        lines = (json.loads(line) for line in response.iter_lines())
        assert "First " in [line.get("text") for line in itertools.islice(lines, 3)]  # before the model has finished
        send_rest.set()
        assert "and last." in [line.get("text") for line in lines]


def test_service_stops_promptly_and_logs_written_passages(started: tuple[str, subprocess.Popen[str]]) -> None:
    _, process = started
    process.send_signal(signal.SIGTERM)
    printed = process.communicate(timeout=20)[1]
    assert process.returncode == 0, printed
    assert re.search(r"2 passages: 2 written, 0 deleted", printed)
    assert "Traceback" not in printed


def test_startup_error_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rag", str(tmp_path)]
    done = subprocess.run(command, cwd=EXAMPLES, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, f"Error: there is no Markdown file (.md) in {tmp_path}\n")
