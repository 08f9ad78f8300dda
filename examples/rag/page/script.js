// Sends questions to the service and shows the answers. Text from the service is inserted as text, never as HTML.
"use strict";

const find = (id) => document.getElementById(id);
const form = find("form");
let pending = null; // AbortController of the current request; the next request aborts it

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const question = find("question").value.trim();
  if (!question) return;
  history.replaceState(null, "", "?" + new URLSearchParams({ q: question }));
  ask(question);
});

async function ask(question) {
  pending?.abort();
  const own = (pending = new AbortController());
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
    if (pending === own) find("answer").removeAttribute("aria-busy");
  }
}

// Yield the JSON values of a body, one per line, as they arrive.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
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
  find("files").replaceChildren(...files.flatMap((file) => [fileTitle(file), ...file.passages.map(passageDetails)]));
}

function fileTitle(file) {
  const title = create("h3", file.title + " ");
  title.append(create("span", file.path, "quiet"));
  return title;
}

function passageDetails(passage) {
  const shown = create("details");
  shown.id = "passage-" + passage.number;
  shown.append(create("summary", `[${passage.number}] ${passage.heading}`), create("pre", passage.text));
  return shown;
}

// Turn the numbers in the answer into links to their passages, and open the cited passages.
function showCited(numbers) {
  const parts = find("text").textContent.split(/(\d+(?=[\d\s,]*\]))/);
  find("text").replaceChildren(...parts.map((part) => (numbers.includes(Number(part)) ? citation(part) : part)));
  for (const number of numbers) {
    const passage = find("passage-" + number);
    passage.open = true;
    passage.classList.add("cited");
  }
}

function citation(number) {
  const shown = create("a", number);
  shown.href = "#passage-" + number;
  shown.addEventListener("click", () => { find("passage-" + number).open = true; });
  return shown;
}

function create(tag, text = "", kind = "") {
  const element = document.createElement(tag);
  element.textContent = text;
  element.className = kind;
  return element;
}

async function showStatus() {
  const response = await fetch("health");
  const health = await response.json();
  if (!response.ok) throw new Error(health.error);
  find("service").textContent = `${health.passages} passages; answers: ${health.answers}`;
}

showStatus().catch((error) => { find("service").textContent = `The service is not available: ${error.message}`; });
const initial = new URLSearchParams(location.search).get("q");
if (initial) {
  find("question").value = initial;
  ask(initial);
}
