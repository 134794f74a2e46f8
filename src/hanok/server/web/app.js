// The chat page: streams answers, collects thumbs and corrections. Text enters the page as text, never as markup.
import { STRINGS } from "/strings.js";

const $ = (id) => document.getElementById(id);
const TEMPERATURE = { precise: 0, creative: 0.8 };
const settings = {
  language: localStorage.getItem("hanok.language") ?? (navigator.language.startsWith("ko") ? "ko" : "en"),
  style: localStorage.getItem("hanok.style") ?? "precise",
};
let model = null;
let examples = {};
let turns = JSON.parse(sessionStorage.getItem("hanok.turns") ?? "[]"); // {role, content, id?, rating?, correction?, end?, error?}
let running = null; // AbortController of the answer being written

const t = (key, values = {}) =>
  Object.entries(values).reduce((text, [name, value]) => text.replace(`{${name}}`, value), STRINGS[settings.language][key]);

// ---- settings -------------------------------------------------------------------------------------------------

function remember(name, value) {
  settings[name] = value;
  localStorage.setItem(`hanok.${name}`, value);
}

function applySettings() {
  document.documentElement.lang = settings.language;
  for (const node of document.querySelectorAll("[data-text]")) node.textContent = t(node.dataset.text);
  for (const node of document.querySelectorAll("[data-label]")) label(node, t(node.dataset.label));
  for (const node of document.querySelectorAll("[data-placeholder]")) node.placeholder = t(node.dataset.placeholder);
  $("language-name").textContent = t("other");
  $("language").lang = settings.language === "ko" ? "en" : "ko";
  const style = t(`style_${settings.style}`);
  $("style-name").textContent = style;
  label($("style"), t("style_label", { style }));
  $("style").setAttribute("aria-pressed", String(settings.style === "creative"));
  showExamples();
  redraw();
}

function label(node, text) {
  node.setAttribute("aria-label", text);
  if (node.tagName === "BUTTON") node.title = text;
}

function toggleTheme() {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("hanok.theme", root.dataset.theme);
}

// ---- conversation ---------------------------------------------------------------------------------------------

function save() {
  sessionStorage.setItem("hanok.turns", JSON.stringify(turns));
}

function redraw() {
  $("log").replaceChildren(...turns.map((turn, place) => draw(turn, place)));
  $("welcome").hidden = turns.length > 0;
}

// Draw one turn anew (others keep their open editors) and put the focus back where it was.
function refresh(turn, focus) {
  const place = turns.indexOf(turn);
  const item = draw(turn, place);
  $("log").children[place]?.replaceWith(item);
  item.querySelector(focus)?.focus();
  return item;
}

function draw(turn, place) {
  const item = $("turn").content.firstElementChild.cloneNode(true);
  item.classList.add(turn.role, ...(turn.error ? ["failed"] : []));
  item.querySelector(".who").textContent = t(turn.role === "user" ? "you" : "assistant");
  const bubble = item.querySelector(".bubble");
  bubble.dir = "auto";
  bubble.textContent = turn.error ? errorText(turn.error) : turn.content || (turn.end ? t("empty") : "");
  const actions = item.querySelector(".actions");
  if (turn.role === "user" || (!turn.end && !turn.error)) actions.remove();
  else if (turn.error) actions.replaceChildren(retryButton(place));
  else wireActions(item, turn);
  if (turn.correction) item.append(correctionBox(turn.correction));
  return item;
}

function wireActions(item, turn) {
  item.querySelector(".actions").setAttribute("aria-label", t("actions"));
  for (const [name, rating] of [["up", 1], ["down", -1]]) {
    const button = item.querySelector(`.${name}`);
    label(button, t(name));
    button.disabled = !turn.id;
    button.setAttribute("aria-pressed", String(turn.rating === rating));
    button.addEventListener("click", () => rate(turn, { rating }, "thanks", `.${name}`));
  }
  const correct = item.querySelector(".correct");
  correct.querySelector("span").textContent = t("correct");
  correct.disabled = !turn.id;
  correct.addEventListener("click", () => openEditor(item, turn));
  const copy = item.querySelector(".copy");
  label(copy, t("copy"));
  copy.addEventListener("click", async () => {
    await navigator.clipboard.writeText(turn.content);
    announce(t("copied"), item);
  });
  item.querySelector(".note").textContent = { stopped: t("stopped"), length: t("cut") }[turn.end] ?? "";
}

function correctionBox(text) {
  const box = document.createElement("div");
  box.className = "correction";
  box.dir = "auto";
  box.textContent = text;
  return box;
}

function retryButton(place) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = t("retry");
  button.addEventListener("click", () => {
    turns = turns.slice(0, place);
    answer();
  });
  return button;
}

function errorText(error) {
  if (error.code === "context_length_exceeded") return `${t("error_long")} (${error.message})`;
  return error.offline ? t("error_offline") : `${t("error_other")} ${error.message}`;
}

function announce(text, item = null) {
  $("status").textContent = text;
  if (item) item.querySelector(".note").textContent = text;
}

const nearBottom = () => $("scroll").scrollHeight - $("scroll").scrollTop - $("scroll").clientHeight < 120;
const toBottom = () => $("scroll").scrollTo({ top: $("scroll").scrollHeight });

// ---- asking ---------------------------------------------------------------------------------------------------

function send(text) {
  if (running || !text.trim()) return;
  turns.push({ role: "user", content: text.trim() });
  answer();
}

async function answer() {
  const turn = { role: "assistant", content: "" };
  const messages = turns.filter((one) => !one.error).map(({ role, content, correction }) => ({ role, content: correction ?? content }));
  turns.push(turn);
  running = new AbortController();
  busy(true);
  redraw();
  toBottom();
  const bubble = $("log").lastElementChild.querySelector(".bubble");
  bubble.classList.add("writing");
  announce(t("thinking"));
  try {
    await read(await ask(messages, running.signal), (event) => {
      const stay = nearBottom();
      turn.id = event.id ?? turn.id;
      turn.content += event.choices[0]?.delta.content ?? "";
      turn.end = event.choices[0]?.finish_reason ?? turn.end;
      bubble.textContent = turn.content;
      if (stay) toBottom();
    });
  } catch (error) {
    if (error.name === "AbortError") turn.end = "stopped";
    else turn.error = { message: error.message, code: error.code, offline: error instanceof TypeError };
  }
  if (turn.end === "stopped") turn.id = undefined; // the server keeps finished answers alone
  if (!turn.end && !turn.error) turn.error = { offline: true };
  running = null;
  busy(false);
  save();
  redraw();
  announce(turn.error ? errorText(turn.error) : t("finished"));
  toBottom();
  $("input").focus();
}

async function ask(messages, signal) {
  if (!model) await loadModel();
  const response = await fetch("/v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ model, messages, stream: true, temperature: TEMPERATURE[settings.style] }),
    signal,
  });
  if (!response.ok) throw await serverError(response);
  return response.body;
}

async function serverError(response) {
  const body = await response.json().catch(() => ({}));
  return Object.assign(new Error(body.error?.message ?? response.statusText), { code: body.error?.code });
}

async function read(body, onEvent) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const events = (held + value).split("\n\n");
    held = events.pop();
    for (const line of events.flatMap((event) => event.split("\n"))) {
      if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
      const event = JSON.parse(line.slice(6));
      if (event.error) throw new Error(event.error.message);
      onEvent(event);
    }
  }
}

function busy(yes) {
  $("send").hidden = yes;
  $("stop").hidden = !yes;
  document.body.classList.toggle("busy", yes);
}

// ---- feedback -------------------------------------------------------------------------------------------------

async function rate(turn, opinion, thanks, focus) {
  try {
    const response = await fetch("/v1/feedback", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ request_id: turn.id, ...opinion }),
    });
    if (!response.ok) throw await serverError(response);
    Object.assign(turn, opinion);
    save();
    announce(t(thanks), refresh(turn, focus));
  } catch (error) {
    const item = $("log").children[turns.indexOf(turn)];
    announce(error instanceof TypeError ? t("error_offline") : `${t("error_feedback")} ${error.message}`, item);
  }
}

function openEditor(item, turn) {
  if (item.querySelector(".editor")) return;
  const form = $("editor").content.firstElementChild.cloneNode(true);
  const area = form.querySelector("textarea");
  form.querySelector(".label").textContent = t("correction_label");
  form.querySelector("[type=submit]").textContent = t("save");
  form.querySelector(".cancel").textContent = t("cancel");
  area.value = turn.correction ?? turn.content;
  const close = () => {
    form.remove();
    item.querySelector(".correct").focus();
  };
  form.querySelector(".cancel").addEventListener("click", close);
  form.addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    if (event.key === "Escape") close();
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const correction = area.value.trim();
    if (correction) rate(turn, { rating: -1, correction }, "corrected", ".correct");
  });
  item.append(form);
  area.focus();
  area.select();
  form.scrollIntoView({ block: "nearest" });
}

// ---- start ----------------------------------------------------------------------------------------------------

async function loadModel() {
  const response = await fetch("/v1/models");
  if (!response.ok) throw await serverError(response);
  model = (await response.json()).data[0].id;
  $("model").textContent = model;
  $("model").hidden = false;
}

async function loadExamples() {
  const response = await fetch("/examples.json");
  if (response.ok) examples = await response.json();
  showExamples();
}

function showExamples() {
  const welcome = examples[settings.language]?.length ? "welcome_village" : "welcome_text";
  $("welcome-text").dataset.text = welcome;
  $("welcome-text").textContent = t(welcome);
  $("examples").replaceChildren(
    ...(examples[settings.language] ?? []).map((text) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = text;
      button.addEventListener("click", () => send(text));
      return button;
    }),
  );
}

function grow() {
  $("input").style.height = "auto";
  $("input").style.height = `${$("input").scrollHeight + 2}px`;
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (running) return;
  const text = $("input").value;
  $("input").value = "";
  grow();
  send(text);
});
$("input").addEventListener("input", grow);
$("input").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return; // 229: Hangul being composed
  event.preventDefault();
  $("form").requestSubmit();
});
$("stop").addEventListener("click", () => running?.abort());
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !event.isComposing) running?.abort();
});
$("new").addEventListener("click", () => {
  running?.abort();
  turns = [];
  save();
  redraw();
  $("input").focus();
});
$("style").addEventListener("click", () => {
  remember("style", settings.style === "precise" ? "creative" : "precise");
  applySettings();
});
$("language").addEventListener("click", () => {
  if (running) return; // redrawing would lose the bubble being written
  remember("language", settings.language === "ko" ? "en" : "ko");
  applySettings();
});
$("theme").addEventListener("click", toggleTheme);

applySettings();
toBottom();
loadModel().catch(() => announce(t("error_offline")));
loadExamples().catch(() => {});
if (!matchMedia("(pointer: coarse)").matches) $("input").focus();
