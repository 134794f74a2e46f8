// Places that the guard found in a text, marked with the rule's name. Spans count characters, not the halves of them that
// strings here are made of.
import { h } from "/lib/dom.js";
import { t } from "/lib/i18n.js";

const ORDER = ["allow", "flag", "redact", "ask", "block"];
const OPEN = "\ufdd0"; // noncharacters: no text has them but by mistake
const CLOSE = "\ufdd1";

export const strictest = (findings) => findings.reduce((found, { action }) => (ORDER.indexOf(action) > ORDER.indexOf(found) ? action : found), "allow");

// [{ start, end, findings }] in order, without overlaps: what is marked, and the findings that cover it.
export function stretches(findings) {
  const placed = findings.filter(({ span }) => span && span[1] >= span[0]);
  const edges = [...new Set(placed.flatMap(({ span }) => span))].sort((one, other) => one - other);
  const found = placed.filter(({ span }) => span[0] === span[1]).map((one) => ({ start: one.span[0], end: one.span[0], findings: [one] }));
  for (const [place, start] of edges.slice(0, -1).entries()) {
    const end = edges[place + 1];
    const covering = placed.filter(({ span }) => span[0] <= start && span[1] >= end);
    const before = found.at(-1);
    if (!covering.length) continue;
    if (before?.end === start && before.end > before.start && same(before.findings, covering)) before.end = end;
    else found.push({ start, end, findings: covering });
  }
  return found.sort((one, other) => one.start - other.start || one.end - other.end);
}

const same = (one, other) => one.length === other.length && one.every((finding, place) => finding === other[place]);

export const label = (findings) => [...new Set(findings.map(({ rule }) => rule))].join(", ");
export const explain = (findings) => findings.map(({ rule, action, reason }) => `${rule}: ${t(`action_${action}`)}${reason ? ` (${reason})` : ""}`).join("\n");

export function mark(findings, ...inside) {
  const name = h("span", { class: "rule" }, label(findings));
  return h("mark", { class: `found ${strictest(findings)}`, title: explain(findings) }, inside, name);
}

// A plain text with its marks.
export function marked(text, findings) {
  const characters = [...text];
  const nodes = [];
  let place = 0;
  for (const { start, end, findings: covering } of stretches(findings)) {
    nodes.push(characters.slice(place, start).join(""), mark(covering, characters.slice(start, end).join("")));
    place = Math.max(place, end);
  }
  return [...nodes, characters.slice(place).join("")].filter((node) => node !== "");
}

// The same for a text that becomes elements: signs go into it before, and become marks in what was made of it.
export function withSigns(text, findings) {
  const characters = [...text.replace(/[\ufdd0\ufdd1]/g, "\ufffd")];
  const cuts = stretches(findings);
  for (const { start, end } of [...cuts].reverse()) {
    characters.splice(end, 0, CLOSE);
    characters.splice(start, 0, OPEN);
  }
  return [characters.join(""), cuts];
}

export function signsToMarks(holder, cuts) {
  const walker = document.createTreeWalker(holder, NodeFilter.SHOW_TEXT);
  const texts = [];
  while (walker.nextNode()) texts.push(walker.currentNode);
  let next = 0;
  let inside = null;
  for (const node of texts) {
    const parts = [];
    for (const piece of node.data.split(/([\ufdd0\ufdd1])/)) {
      if (piece === OPEN) inside = cuts[(next += 1) - 1]?.findings ?? null;
      else if (piece === CLOSE) inside = null;
      else if (piece) parts.push(inside ? mark(inside, piece) : piece);
    }
    if (parts.length !== 1 || parts[0] !== node.data) node.replaceWith(...parts);
  }
  return holder;
}
