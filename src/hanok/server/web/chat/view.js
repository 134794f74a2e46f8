// The chat: turns, the box to write in, and the settings beside it.
import { $, button, h, icon, iconButton } from "/lib/dom.js";
import { t } from "/lib/i18n.js";
import { prefs, remember, server } from "/lib/state.js";
import { path, titleOf } from "/lib/tree.js";
import { composer } from "/chat/composer.js";
import { keepMine, listen, modelOf, send, session, takeTheirs } from "/chat/session.js";
import { settingsPanel } from "/chat/settings.js";
import { drawTurn, fillBubble, showTokens } from "/chat/turn.js";

let parts = null; // of the view that is shown
let settingsOpen = false;

export function chatView() {
  const log = h("ol", { id: "log" });
  const welcome = drawWelcome();
  const notice = h("div", { id: "notice", role: "alert", hidden: true });
  const scroll = h("div", { id: "scroll", tabIndex: -1 }, welcome, h("div", { role: "log", "aria-label": t("conversation") }, log));
  const box = composer();
  const panel = h("aside", { id: "settings", "aria-label": t("settings"), hidden: !settingsOpen });
  const title = h("h1", { class: "title" });
  parts = { log, welcome, notice, scroll, box, panel, title };
  const column = h("div", { class: "column" }, notice, scroll, box.node);
  if (settingsOpen) panel.append(settingsPanel(toggleSettings));
  redraw();
  toBottom();
  return { bar: [title, ...controls()], body: h("div", { class: "chat" }, column, panel), focus: () => box.focus() };
}

function controls() {
  const models = server.models.map((one) => h("option", { value: one.id, selected: one.id === modelOf() }, one.id));
  const choose = (event) => remember({ model: event.target.value });
  const model = models.length > 1
    ? h("select", { id: "model", "aria-label": t("model"), onchange: choose }, models)
    : h("span", { id: "model", class: "model", hidden: !models.length }, server.models[0]?.id ?? "");
  const settings = h(
    "button", { type: "button", id: "settings-button", class: "pill", "aria-expanded": settingsOpen, "aria-controls": "settings", onclick: toggleSettings, title: t("settings") },
    icon("gear"), h("span", {}, t(`mode_${prefs.mode}`)),
  );
  return [h("span", { class: "spring" }), model, settings];
}

function toggleSettings() {
  settingsOpen = !settingsOpen;
  parts.panel.hidden = !settingsOpen;
  parts.panel.replaceChildren(...(settingsOpen ? [settingsPanel(toggleSettings)] : []));
  $("settings-button").setAttribute("aria-expanded", String(settingsOpen));
  if (settingsOpen) parts.panel.querySelector("button, select, textarea, input")?.focus();
  else $("settings-button").focus();
}

function redraw() {
  const shown = path(session.talk);
  parts.log.replaceChildren(...shown.map((message, place) => drawTurn(message, place === shown.length - 1)));
  parts.welcome.hidden = shown.length > 0;
  parts.title.textContent = shown.length ? titleOf(session.talk) : t("new_chat");
  parts.title.classList.toggle("visually-hidden", !shown.length);
  parts.log.parentElement.setAttribute("aria-busy", String(Boolean(session.running)));
}

function drawWelcome() {
  const house = $("house").content.firstElementChild.cloneNode(true);
  const lang = document.documentElement.lang;
  const questions = server.examples[lang] ?? [];
  const examples = questions.map((text) => h("button", { type: "button", onclick: () => send(text) }, text));
  const about = questions.length ? "welcome_village" : "welcome_text";
  return h("section", { id: "welcome" }, house, h("h2", {}, t("welcome")), h("p", {}, t(about)), h("div", { class: "examples" }, examples));
}

const nearBottom = () => parts.scroll.scrollHeight - parts.scroll.scrollTop - parts.scroll.clientHeight < 120;
const toBottom = () => requestAnimationFrame(() => parts.scroll.scrollTo({ top: parts.scroll.scrollHeight }));

let waiting = false; // for the next frame

function grown(message) {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    const item = parts.log.querySelector(`[data-id="${message.id}"]`);
    if (!item) return;
    const stay = nearBottom();
    if (message.reasoning && !item.querySelector(".reasoning")) item.replaceWith(drawTurn(message, true));
    else if (message.reasoning) item.querySelector(".reasoning .prose").textContent = message.reasoning;
    const box = parts.log.querySelector(`[data-id="${message.id}"] .bubble`);
    fillBubble(box, message);
    if (stay) parts.scroll.scrollTo({ top: parts.scroll.scrollHeight });
  });
}

function busy() {
  const on = Boolean(session.running);
  document.body.classList.toggle("busy", on);
  parts.box.busy(on);
  const latest = path(session.talk).at(-1);
  if (!on && prefs.tokens && latest?.tokens) showTokens(latest);
  if (!on) parts.box.focus();
}

function conflict() {
  parts.notice.hidden = false;
  const done = (call) => async () => {
    parts.notice.hidden = true;
    await call();
  };
  parts.notice.replaceChildren(
    h("p", {}, t("conflict")),
    button(t("keep_mine"), done(keepMine)), button(t("take_theirs"), done(takeTheirs)),
    iconButton("close", t("close"), () => (parts.notice.hidden = true)),
  );
}

listen((kind, message) => {
  if (!parts?.log.isConnected) return;
  if (kind === "message") grown(message);
  else if (kind === "busy") busy();
  else if (kind === "conflict") conflict();
  else if (kind === "talk") {
    const stay = nearBottom() || session.running;
    redraw();
    if (stay) toBottom();
  } else if (kind === "saved") {
    parts.title.textContent = titleOf(session.talk);
    $("switch-private").disabled = true; // what is saved is no secret any more
  }
});

