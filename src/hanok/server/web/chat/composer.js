// The box to write in, and what goes with the next question.
import { errorText, get } from "/lib/api.js";
import { announce, h, icon, iconButton } from "/lib/dom.js";
import { language, t } from "/lib/i18n.js";
import { has, prefs, remember } from "/lib/state.js";
import { attachments, chooseDocuments, upload } from "/chat/files.js";
import { send, session, stop } from "/chat/session.js";

export function composer() {
  const input = h("textarea", { id: "input", rows: 1, autocomplete: "off", "aria-label": t("message"), placeholder: t("placeholder") });
  const sendButton = h("button", { id: "send", type: "submit", class: "primary", "aria-label": t("send"), title: t("send") }, icon("send"));
  const stopButton = h("button", { id: "stop", type: "button", class: "primary", "aria-label": t("stop"), title: t("stop"), onclick: stop, hidden: true }, icon("stop"));
  const attached = has("documents") ? attachments() : null;
  const clip = attached && iconButton("clip", t("attach"), () => chooseDocuments(attached.draw).catch((error) => announce(errorText(error))), { id: "attach", class: "round" });
  const form = h("form", { id: "form" }, attached?.node, clip, input, sendButton, stopButton);
  if (attached) takeDropped(form, attached.draw);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (session.running || !input.value.trim()) return;
    const text = input.value;
    input.value = "";
    grow(input);
    send(text);
  });
  input.addEventListener("input", () => grow(input));
  input.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return; // 229: Hangul being composed
    event.preventDefault();
    form.requestSubmit();
  });
  const keys = h("span", { class: "keys" }, t("hint_keys"));
  const notice = h("span", { class: "ai" }, t("hint"));
  get("/v1/transparency").then((told) => notice.replaceChildren(told.notice[language()]), () => {}); // the operator's words, else ours stay
  const row = h("div", { class: "below" }, switches(), h("p", { class: "hint" }, notice, " ", keys));
  const busy = (on) => {
    sendButton.hidden = on;
    stopButton.hidden = !on;
  };
  busy(Boolean(session.running));
  return { node: h("div", { class: "composer" }, form, row), busy, focus: () => matchMedia("(pointer: coarse)").matches || input.focus() };
}

function takeDropped(form, draw) {
  form.addEventListener("dragover", (event) => event.dataTransfer.types.includes("Files") && event.preventDefault());
  form.addEventListener("drop", (event) => {
    if (!event.dataTransfer.files.length) return;
    event.preventDefault();
    upload([...event.dataTransfer.files], draw);
  });
}

function grow(input) {
  input.style.height = "auto";
  input.style.height = `${input.scrollHeight + 2}px`;
}

// Small switches: a private conversation, and answers token by token.
function switches() {
  const flip = (name, pressed, onflip) => {
    const node = h("button", { type: "button", class: "switch", id: `switch-${name}`, "aria-pressed": pressed, title: t(`${name}_hint`) }, icon({ private: "lock", tokens: "tint" }[name]), h("span", {}, t(name)));
    node.addEventListener("click", () => {
      const on = node.getAttribute("aria-pressed") !== "true";
      node.setAttribute("aria-pressed", String(on));
      onflip(on);
    });
    return node;
  };
  const hide = flip("private", session.talk.private, (on) => (session.talk.private = on));
  hide.disabled = session.talk.version > 0; // saved already
  return h(
    "div", { class: "switches" },
    has("conversations") || has("feedback") ? hide : null,
    flip("tokens", prefs.tokens, (on) => remember({ tokens: on })),
  );
}
