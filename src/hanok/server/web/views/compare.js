// One question to two models, adapters or settings at once, and a vote that becomes feedback on both.
import { button, h, icon, announce } from "/lib/dom.js";
import { generate, bodyOf } from "/lib/generate.js";
import { t } from "/lib/i18n.js";
import { has, hasHeads, prefs, server } from "/lib/state.js";
import { fillBubble } from "/chat/turn.js";
import { rate } from "/chat/feedback.js";
import { modelOf } from "/chat/session.js";
import { page } from "/views/parts.js";

const MODES = ["precise", "creative", "model"];
const VOTES = [["left", 1, -1], ["both", 1, 1], ["neither", -1, -1], ["right", -1, 1]];
const state = { sides: null, blind: false, rounds: [], running: null };

export async function open() {
  state.sides ??= [{ model: modelOf(), mode: "precise" }, { model: server.models[1]?.id ?? modelOf(), mode: server.models[1] ? "precise" : "creative" }];
  const rounds = h("ol", { class: "rounds" }, state.rounds.map(draw));
  const input = h("textarea", { id: "input", rows: 1, "aria-label": t("message"), placeholder: t("compare_placeholder") });
  const sendButton = h("button", { type: "submit", id: "send", class: "primary", "aria-label": t("send") }, icon("send"));
  const form = h("form", { id: "form" }, input, sendButton);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const question = input.value.trim();
    if (!question || state.running) return;
    input.value = "";
    ask(question, rounds);
  });
  input.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
    event.preventDefault();
    form.requestSubmit();
  });
  const hide = h("label", { class: "check" }, h("input", { type: "checkbox", checked: state.blind, onchange: (event) => (state.blind = event.target.checked) }), t("blind"));
  const { bar } = page("compare", [hide]);
  const empty = h("p", { class: "soft lead" }, t("compare_text"));
  const body = h("div", { class: "compare" }, h("div", { class: "scroll" }, h("div", { class: "pickers" }, state.sides.map(picker)), empty, rounds), h("div", { class: "composer" }, form));
  return { bar, body, focus: () => input.focus(), leave: () => state.running?.abort() };
}

function picker(side, place) {
  const models = h("select", { "aria-label": `${t("model")} ${"AB"[place]}`, onchange: (event) => (side.model = event.target.value) },
    server.models.map((one) => h("option", { value: one.id, selected: one.id === side.model }, one.id)));
  const there = MODES.filter((mode) => mode !== "model" || hasHeads());
  const modes = h("select", { "aria-label": `${t("mode")} ${"AB"[place]}`, onchange: (event) => (side.mode = event.target.value) },
    there.map((mode) => h("option", { value: mode, selected: mode === side.mode }, t(`mode_${mode}`))));
  return h("div", { class: "picker" }, h("b", {}, "AB"[place]), models, modes);
}

async function ask(question, rounds) {
  const order = state.blind && Math.random() < 0.5 ? [1, 0] : [0, 1];
  const answers = order.map((place) => ({ ...state.sides[place], message: { role: "assistant", content: "" } }));
  const round = { question, answers, blind: state.blind, vote: null };
  state.rounds.unshift(round);
  const item = draw(round);
  rounds.prepend(item);
  state.running = new AbortController();
  announce(t("thinking"));
  await Promise.all(answers.map(({ model, mode, message }, place) => {
    const body = bodyOf({ model, messages: [{ role: "user", content: question }], settings: { ...prefs, mode } });
    const box = item.querySelectorAll(".bubble")[place];
    return generate(body, message, { signal: state.running.signal, onchange: () => fillBubble(box, message) });
  }));
  state.running = null;
  announce(t("finished"));
  redraw(item, round);
}

function draw(round) {
  const shown = !round.blind || round.vote;
  const name = ({ model, mode }) => (shown ? `${model} · ${t(`mode_${mode}`)}` : t("hidden"));
  const sides = round.answers.map((side, place) => {
    const box = h("div", { class: "bubble", dir: "auto" });
    fillBubble(box, side.message);
    const { usage, seconds } = side.message;
    const facts = usage && seconds ? t("facts", { tokens: usage.completion_tokens, seconds: seconds.toFixed(1) }) : "";
    const won = round.vote && VOTES.find(([vote]) => vote === round.vote)[place + 1] > 0;
    return h("section", { class: `side${won ? " won" : ""}` }, h("h3", {}, h("b", {}, "AB"[place]), h("span", {}, name(side))), h("div", { class: "turn assistant" }, box), h("small", { class: "n" }, facts));
  });
  return h("li", {}, h("p", { class: "question", dir: "auto" }, round.question), h("div", { class: "sides" }, sides), votes(round));
}

function votes(round) {
  const done = round.answers.every(({ message }) => message.request_id && message.end);
  if (!done || !has("feedback")) return null;
  const note = h("span", { class: "note" }, round.vote ? t("thanks") : "");
  const give = (vote) => async (event) => {
    const opinions = VOTES.find(([name]) => name === vote).slice(1);
    const kept = await Promise.all(round.answers.map(({ message }, place) => {
      const other = round.answers[1 - place];
      return rate(message, { rating: opinions[place], reason: `side by side: ${vote}; the other was ${other.model}, ${other.mode}` }, (text) => (note.textContent = text));
    }));
    if (!kept.every(Boolean)) return;
    round.vote = vote;
    redraw(event.target.closest("li"), round).querySelector("[aria-pressed=true]").focus();
  };
  const buttons = VOTES.map(([vote]) => button(t(`vote_${vote}`), give(vote), { class: "plain", "aria-pressed": round.vote === vote, disabled: Boolean(round.vote) && round.vote !== vote }));
  return h("div", { class: "votes", role: "group", "aria-label": t("vote") }, buttons, note);
}

function redraw(item, round) {
  const next = draw(round);
  item.replaceWith(next);
  return next;
}
