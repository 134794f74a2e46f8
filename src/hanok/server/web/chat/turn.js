// One turn of the conversation, and what can be done with it.
import { errorText } from "/lib/api.js";
import { announce, button, h, icon, iconButton } from "/lib/dom.js";
import { t } from "/lib/i18n.js";
import { marked } from "/lib/spans.js";
import { has } from "/lib/state.js";
import { choose, siblings } from "/lib/tree.js";
import { citations, citer } from "/chat/files.js";
import { editor, rate } from "/chat/feedback.js";
import { answer, changed, giveResult, send, session } from "/chat/session.js";
import { tokenView } from "/chat/tokens.js";
import { approvalOf, proseOf, refusal, verdictList } from "/chat/verdicts.js";

const open = { tokens: new Set() }; // answers shown token by token

export function drawTurn(message, last) {
  const who = { user: "you", assistant: "assistant", tool: "tool" }[message.role];
  const item = h("li", { class: `turn ${message.role}${message.error ? " failed" : ""}`, dataset: { id: message.id } });
  item.append(h("div", { class: "who" }, t(who), message.role === "assistant" && message.model ? h("span", { class: "by" }, message.model) : null));
  if (message.reasoning) item.append(reasoning(message));
  item.append(bubble(message));
  if (message.found?.length) item.append(verdictList(message));
  if (message.tool_calls?.length) item.append(calls(message, last));
  if (message.citations?.length) item.append(citations(message.citations));
  else if (message.grounded && message.end) item.append(h("small", { class: "grounded" }, t(message.grounded.answered ? "uncited" : "unsupported")));
  const writing = session.running && last && message.role === "assistant" && !message.end && !message.error;
  if (!writing) item.append(message.role === "user" ? userActions(item, message) : answerActions(item, message, last));
  if (message.correction) item.append(h("div", { class: "correction", dir: "auto" }, h("span", { class: "visually-hidden" }, t("correction")), message.correction));
  return item;
}

export function bubble(message) {
  const box = h("div", { class: "bubble", dir: "auto" });
  fillBubble(box, message);
  return box;
}

// Called for each piece of a streamed answer.
export function fillBubble(box, message) {
  if (message.error) box.replaceChildren(...(message.error.code === "content_blocked" ? refusal(message) : [errorText(message.error)]));
  else if (message.role !== "assistant") box.replaceChildren(...marked(message.content, message.found ?? []));
  else if (open.tokens.has(message.id) && message.tokens) box.replaceChildren(tokenView(message.tokens));
  else if (message.content) box.replaceChildren(proseOf(message.content, message, "text", { cite: message.citations && citer(message.citations) }));
  else box.replaceChildren(message.end && !message.tool_calls?.length ? t("empty") : "");
  box.classList.toggle("writing", message.role === "assistant" && !message.end && !message.error);
  box.classList.toggle("prose", message.role === "assistant" && !message.error);
}

function reasoning(message) {
  const seconds = message.seconds ? "" : " …";
  return h("details", { class: "reasoning" }, h("summary", {}, t("reasoning") + seconds), h("div", { class: "prose" }, proseOf(message.reasoning, message, "reasoning")));
}

function calls(message, last) {
  const given = new Set(session.talk.messages.filter((one) => one.role === "tool").map((one) => one.tool_call_id));
  return h("div", { class: "calls" }, message.tool_calls.map((call) => {
    const card = h("div", { class: "call" }, h("div", { class: "call-name" }, icon("tool"), h("code", {}, call.name)), h("pre", { tabIndex: 0 }, pretty(call.arguments)));
    const approval = approvalOf(message, call);
    const waiting = !given.has(call.id) && (last || session.talk.messages.at(-1)?.role === "tool");
    if (approval && (waiting || call.approval.decision)) card.append(approval);
    else if (waiting) card.append(resultForm(call));
    return card;
  }));
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

function resultForm(call) {
  const area = h("textarea", { rows: 2, required: true, "aria-label": t("tool_result"), placeholder: t("tool_result") });
  const submit = (event) => {
    event.preventDefault();
    giveResult(call, area.value);
  };
  return h("form", { class: "result", onsubmit: submit }, area, h("button", { type: "submit" }, t("give_result")));
}

// ---- actions ----------------------------------------------------------------------------------------------------

function userActions(item, message) {
  const edit = iconButton("pencil", t("edit"), () => editQuestion(item, message), { class: "edit", disabled: Boolean(session.running) });
  return h("div", { class: "actions" }, branches(message), edit, copyButton(item, message));
}

function editQuestion(item, message) {
  const area = h("textarea", { rows: 3, value: message.content, "aria-label": t("edit") });
  const close = () => changed("talk");
  const form = h("form", { class: "editor" }, area, h("div", { class: "row" }, h("button", { type: "submit", class: "primary" }, t("ask_again")), button(t("cancel"), close)));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send(area.value, message.parent);
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !event.isComposing) close();
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !event.isComposing) form.requestSubmit();
  });
  item.querySelector(".bubble").replaceWith(form);
  item.querySelector(".actions").hidden = true;
  area.focus();
}

function answerActions(item, message, last) {
  const again = () => answer(message.parent);
  if (message.error) return h("div", { class: "actions" }, branches(message), button(t("retry"), again, { class: "retry", icon: "again" }));
  if (message.role === "tool") return h("div", { class: "actions" });
  const note = h("span", { class: "note" }, { stopped: t("stopped"), length: t("cut"), content_filter: t("blocked_answer") }[message.end] ?? "");
  const more = last && ["stopped", "length"].includes(message.end);
  return h(
    "div", { class: "actions", role: "group", "aria-label": t("actions") },
    branches(message),
    has("feedback") ? opinions(item, message, note) : null,
    copyButton(item, message),
    iconButton("again", t("regenerate"), again, { class: "again", disabled: Boolean(session.running) }),
    message.tokens?.length ? tokenButton(item, message) : null,
    more ? button(t("continue"), () => send(t("continue_words")), { class: "continue", icon: "onward" }) : null,
    note,
  );
}

// "2 of 3" with arrows, where an answer or a question has siblings.
function branches(message) {
  const all = siblings(session.talk, message);
  if (all.length < 2) return null;
  const here = all.indexOf(message);
  const go = (step) => () => {
    choose(session.talk, all[here + step]);
    changed("talk");
    document.querySelector(`[data-id="${all[here + step].id}"] .branches button:not(:disabled)`)?.focus();
  };
  return h(
    "span", { class: "branches", role: "group", "aria-label": t("branches") },
    iconButton("left", t("branch_before"), go(-1), { disabled: here === 0 || Boolean(session.running) }),
    h("span", { class: "n" }, `${here + 1}/${all.length}`),
    iconButton("right", t("branch_after"), go(1), { disabled: here === all.length - 1 || Boolean(session.running) }),
  );
}

function opinions(item, message, note) {
  const say = (text) => (note.textContent = text);
  const give = async (opinion, name, words = {}) => {
    if (!(await rate(message, { rating: opinion, ...words }, say))) return;
    changed();
    const next = redraw(item, message);
    next.querySelector(`.${name}`).focus();
    next.querySelector(".note").textContent = t(words.correction ? "corrected" : "thanks");
    if (name === "down" && !words.reason && !words.correction) openEditor(next, message, give, "reason");
  };
  const thumb = (name, rating) =>
    iconButton(name, t(name), () => give(rating, name), { class: name, disabled: !message.request_id, "aria-pressed": message.rating === rating });
  const correct = button(t("correct"), () => openEditor(item, message, give), { class: "correct", icon: "pencil", disabled: !message.request_id });
  return [thumb("up", 1), thumb("down", -1), correct];
}

function openEditor(item, message, give, focus) {
  if (item.querySelector(".editor")) return;
  const back = focus === "reason" ? ".down" : ".correct";
  const form = editor(message, {
    focus,
    onsave: (words) => (Object.keys(words).length ? give(-1, back.slice(1), words) : form.remove()),
    onclose: () => {
      form.remove();
      item.querySelector(back).focus();
    },
  });
  item.append(form);
}

function copyButton(item, message) {
  return iconButton("copy", t("copy"), async () => {
    await navigator.clipboard.writeText(message.content);
    announce(t("copied"));
    const note = item.querySelector(".note");
    if (note) note.textContent = t("copied");
  }, { class: "copy" });
}

function tokenButton(item, message) {
  return iconButton("tint", t("tokens"), () => {
    if (!open.tokens.delete(message.id)) open.tokens.add(message.id);
    redraw(item, message).querySelector(".token-button").focus();
  }, { class: "token-button", "aria-pressed": open.tokens.has(message.id) });
}

export const showTokens = (message) => open.tokens.add(message.id);

// Drawn anew in its place; other turns keep their open editors.
function redraw(item, message) {
  const there = document.querySelector(`[data-id="${message.id}"]`) ?? item; // it may have been drawn anew since
  const next = drawTurn(message, !there.nextElementSibling);
  there.replaceWith(next);
  return next;
}
