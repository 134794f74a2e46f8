// An answer token by token: colour by probability; the alternatives, and what the decoding heads chose, on focus or hover.
import { h } from "/lib/dom.js";
import { number, t } from "/lib/i18n.js";

const STEPS = [0.9, 0.6, 0.3, 0.1]; // probabilities between the five tints

export function tokenView(tokens) {
  const card = h("div", { class: "token-card", id: "token-card", role: "tooltip", hidden: true });
  const nodes = spell(tokens).map((text, place) => token(tokens[place], text, place));
  const strip = h("div", { class: "tokens", role: "group", "aria-label": t("tokens_label") }, nodes);
  const show = (event) => {
    const node = event.target.closest(".token");
    if (!node) return;
    fill(card, tokens[nodes.indexOf(node)]);
    place(card, node);
  };
  const hide = () => (card.hidden = true);
  const moves = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10, Home: -Infinity, End: Infinity };
  const move = (event) => {
    if (event.key === "Escape") hide();
    if (!(event.key in moves)) return;
    event.preventDefault();
    const here = nodes.indexOf(event.target.closest(".token"));
    const next = nodes[Math.max(0, Math.min(nodes.length - 1, here + moves[event.key]))];
    nodes[here].tabIndex = -1; // one stop for Tab, arrows within
    next.tabIndex = 0;
    next.focus();
  };
  for (const [name, call] of Object.entries({ mouseover: show, focusin: show, mouseleave: hide, focusout: hide, keydown: move })) {
    strip.addEventListener(name, call);
  }
  return h("div", { class: "token-view" }, strip, card, legend());
}

function token({ logprob }, text, place) {
  const chance = Math.exp(logprob);
  const tint = STEPS.filter((step) => chance < step).length;
  const shown = text.replace(/\n/g, "↵\n").replace(/\t/g, "⇥") || "·";
  const label = `${text.trim() || "␣"} ${percent(chance)}`;
  return h("span", { class: `token tint-${tint}`, role: "button", tabIndex: place ? -1 : 0, "aria-label": label, "aria-describedby": "token-card" }, shown);
}

// Text of each token. Bytes of a character that spans several tokens are shown with the last of them.
function spell(tokens) {
  const decoder = new TextDecoder();
  return tokens.map((one) => (one.bytes ? decoder.decode(new Uint8Array(one.bytes), { stream: true }) : one.token));
}

const percent = (chance) => `${number(100 * chance, chance < 0.1 ? 2 : 0)} %`;
const visible = (text) => text.replace(/\n/g, "↵").replace(/ /g, "␣") || "∅";

function fill(card, one) {
  const rows = one.top_logprobs?.length ? [...one.top_logprobs] : [one];
  if (!rows.some((row) => row.token === one.token)) rows.push(one);
  const table = rows.map((row) => {
    const chance = Math.exp(row.logprob);
    const bar = h("span", { class: "bar", style: { "--share": `${Math.max(1, 100 * chance)}%` } });
    return h("li", { class: row.token === one.token ? "chosen" : "" }, h("code", {}, visible(row.token)), bar, h("span", { class: "n" }, percent(chance)));
  });
  const law = one.temperature === undefined ? [] : [h("p", {}, t("law", { temperature: number(one.temperature, 2), top_p: number(one.top_p, 2) }))];
  card.replaceChildren(h("ol", {}, table), ...law);
}

function place(card, node) {
  card.hidden = false;
  const at = node.getBoundingClientRect();
  const left = Math.max(8, Math.min(at.left, innerWidth - card.offsetWidth - 8));
  const below = at.bottom + card.offsetHeight + 12 < innerHeight;
  card.style.left = `${left}px`;
  card.style.top = `${below ? at.bottom + 6 : at.top - card.offsetHeight - 6}px`;
}

function legend() {
  const names = ["≥ 90 %", "≥ 60 %", "≥ 30 %", "≥ 10 %", "< 10 %"];
  return h("p", { class: "legend" }, names.map((name, tint) => h("span", { class: `token tint-${tint}` }, name)));
}
