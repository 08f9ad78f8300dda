// Asks the service and shows what it answers. Texts of others go into the page as text and never as HTML.
"use strict";

const find = (id) => document.getElementById(id);
const form = find("form");
let asking = null; // the request under way, which the next one breaks off

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const question = find("question").value.trim();
  if (!question) return;
  history.replaceState(null, "", "?" + new URLSearchParams({ q: question }));
  ask(question);
});

async function ask(question) {
  asking?.abort();
  const own = (asking = new AbortController());
  clear();
  try {
    const response = await fetch("ask", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ question, stream: true }),
      signal: own.signal,
    });
    if (!response.ok) throw new Error((await response.json()).error);
    for await (const event of events(response.body)) show(event);
  } catch (error) {
    if (error.name !== "AbortError") fail(error.message);
  } finally {
    if (asking === own) find("answer").removeAttribute("aria-busy");
  }
}

// The lines of a body, each a JSON value, as they come.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (held + value).split("\n");
    held = lines.pop();
    yield* lines.map((line) => JSON.parse(line));
  }
}

function show(event) {
  if (event.files) showFiles(event.files);
  if (event.text) find("text").append(event.text);
  if (event.cited) showCited(event.cited);
  if (event.error) fail(event.error);
}

function clear() {
  find("text").replaceChildren();
  find("files").replaceChildren();
  find("error").hidden = true;
  find("sources").hidden = true;
  find("answer").hidden = false;
  find("answer").setAttribute("aria-busy", "true");
}

function fail(message) {
  find("error").textContent = message;
  find("error").hidden = false;
}

function showFiles(files) {
  find("sources").hidden = files.length === 0;
  find("files").replaceChildren(...files.flatMap((file) => [titled(file), ...file.passages.map(folded)]));
}

function titled(file) {
  const title = made("h3", file.title + " ");
  title.append(made("span", file.path, "quiet"));
  return title;
}

function folded(passage) {
  const shown = made("details");
  shown.id = "passage-" + passage.number;
  shown.append(made("summary", `[${passage.number}] ${passage.heading}`), made("pre", passage.text));
  return shown;
}

// Numbers in the answer become links to their passages, and those that are cited open.
function showCited(numbers) {
  const parts = find("text").textContent.split(/(\d+(?=[\d\s,]*\]))/);
  find("text").replaceChildren(...parts.map((part) => (numbers.includes(Number(part)) ? link(part) : part)));
  for (const number of numbers) {
    const passage = find("passage-" + number);
    passage.open = true;
    passage.classList.add("cited");
  }
}

function link(number) {
  const shown = made("a", number);
  shown.href = "#passage-" + number;
  shown.addEventListener("click", () => { find("passage-" + number).open = true; });
  return shown;
}

function made(tag, text = "", kind = "") {
  const element = document.createElement(tag);
  element.textContent = text;
  element.className = kind;
  return element;
}

async function greet() {
  const response = await fetch("health");
  const health = await response.json();
  if (!response.ok) throw new Error(health.error);
  find("service").textContent = `${health.passages} passages; answers: ${health.answers}`;
}

greet().catch((error) => { find("service").textContent = `The service does not answer: ${error.message}`; });
const asked = new URLSearchParams(location.search).get("q");
if (asked) {
  find("question").value = asked;
  ask(asked);
}
