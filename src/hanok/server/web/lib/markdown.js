// Markdown to elements. A model's words become text in elements that this file makes: they are never markup, they load nothing,
// and a link is a button that asks before it opens anything.
import { h, icon } from "/lib/dom.js";
import { askToOpen } from "/lib/dialogs.js";
import { t } from "/lib/i18n.js";

let citing = null; // while one text is being drawn
let level = 2; // of the heading before
const DEEPEST = 8; // lists and quotations within each other
const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^\s`]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*\s*$/;
const RULE = /^ {0,3}([-*_])( *\1){2,}\s*$/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])( +|$)(.*)$/;
const DIVIDER = /^ *\|? *:?-+:? *(\| *:?-+:? *)*\|? *$/;

// cite: from the inside of "[1, 3]" to elements, or null for brackets that cite nothing.
export function markdown(text, { cite = null } = {}) {
  [citing, level] = [cite, 2];
  const holder = document.createDocumentFragment();
  holder.append(...blocks(text.replace(/\r\n?/g, "\n").split("\n"), 0));
  return holder;
}

function blocks(lines, depth) {
  const found = [];
  let place = 0;
  while (place < lines.length) {
    const line = lines[place];
    const [node, next] = !line.trim()
      ? [null, place + 1]
      : (fenced(lines, place) ?? heading(lines, place) ?? rule(lines, place) ?? quotation(lines, place, depth) ??
        list(lines, place, depth) ?? table(lines, place) ?? paragraph(lines, place, depth));
    if (node) found.push(node);
    place = next;
  }
  return found;
}

function fenced(lines, place) {
  const open = FENCE.exec(lines[place]);
  if (!open) return null;
  let end = place + 1;
  while (end < lines.length && !(lines[end].trim().startsWith(open[1]) && /^\s*[`~]+\s*$/.test(lines[end]))) end += 1;
  const code = lines.slice(place + 1, end).join("\n");
  return [codeBlock(code, open[2]), end + 1];
}

function codeBlock(code, name) {
  const copied = h("span", { "aria-live": "polite" }, t("copy"));
  const copy = async () => {
    await navigator.clipboard.writeText(code);
    copied.textContent = t("copied");
  };
  const bar = h("div", { class: "code-bar" }, h("span", {}, name), h("button", { type: "button", onclick: copy }, icon("copy"), copied));
  return h("div", { class: "code" }, bar, h("pre", { tabIndex: 0, role: "region", "aria-label": t("code") }, h("code", {}, code)));
}

function heading(lines, place) {
  const found = HEADING.exec(lines[place]);
  if (!found) return null;
  level = Math.min(found[1].length + 2, level + 1, 6); // the page itself has the first two; none is left out
  return [h(`h${level}`, {}, inline(found[2])), place + 1];
}

function rule(lines, place) {
  return RULE.test(lines[place]) ? [h("hr"), place + 1] : null;
}

function quotation(lines, place, depth) {
  if (!/^ {0,3}>/.test(lines[place]) || depth >= DEEPEST) return null;
  let end = place;
  while (end < lines.length && /^ {0,3}>/.test(lines[end])) end += 1;
  const inner = lines.slice(place, end).map((line) => line.replace(/^ {0,3}> ?/, ""));
  return [h("blockquote", {}, blocks(inner, depth + 1)), end];
}

function list(lines, place, depth) {
  const first = ITEM.exec(lines[place]);
  if (!first || depth >= DEEPEST) return null;
  const ordered = /\d/.test(first[2]);
  const items = [];
  let end = place;
  let loose = false;
  while (end < lines.length) {
    const item = ITEM.exec(lines[end]);
    const indent = lines[end].search(/\S/);
    if (item && item[1].length <= first[1].length + 1 && /\d/.test(item[2]) === ordered && !RULE.test(lines[end])) {
      items.push({ width: item[1].length + item[2].length + 1, lines: [item[4]] });
    } else if (!lines[end].trim()) {
      const next = lines[end + 1] ?? "";
      if (!next.trim() || (next.search(/\S/) <= first[1].length && !ITEM.test(next))) break;
      items.at(-1).lines.push("");
      loose = true;
    } else if (indent > first[1].length || (!loose && !item && !FENCE.test(lines[end]) && !HEADING.test(lines[end]) && !RULE.test(lines[end]))) {
      items.at(-1).lines.push(lines[end].slice(Math.min(indent, items.at(-1).width)));
      loose = false;
    } else break;
    end += 1;
  }
  const nodes = items.map((item) => h("li", {}, unwrapped(blocks(item.lines, depth + 1))));
  return [h(ordered ? "ol" : "ul", ordered ? { start: Number.parseInt(first[2], 10) } : {}, nodes), end];
}

// The paragraph of a tight item needs no element of its own.
function unwrapped(nodes) {
  if (nodes[0]?.tagName !== "P") return nodes;
  return [...nodes[0].childNodes, ...nodes.slice(1)];
}

const cells = (line) => line.trim().replace(/^\||\|$/g, "").split(/(?<!\\)\|/).map((cell) => cell.trim().replace(/\\\|/g, "|"));

function table(lines, place) {
  if (!lines[place].includes("|") || !DIVIDER.test(lines[place + 1] ?? "") || !lines[place + 1].includes("-")) return null;
  const head = cells(lines[place]);
  const sides = cells(lines[place + 1]).map((cell) => (cell.endsWith(":") ? (cell.startsWith(":") ? "center" : "right") : "left"));
  if (sides.length !== head.length) return null;
  let end = place + 2;
  while (end < lines.length && lines[end].includes("|")) end += 1;
  const row = (name, texts) => h("tr", {}, head.map((_, column) => h(name, { class: sides[column] }, inline(texts[column] ?? ""))));
  const body = lines.slice(place + 2, end).map((line) => row("td", cells(line)));
  const drawn = h("table", {}, h("thead", {}, row("th", head)), h("tbody", {}, body));
  return [h("div", { class: "wide-table", tabIndex: 0, role: "region", "aria-label": t("table") }, drawn), end];
}

function paragraph(lines, place, depth) {
  let end = place + 1;
  const starts = (line, next) =>
    !line.trim() || FENCE.test(line) || HEADING.test(line) || RULE.test(line) || (depth < DEEPEST && (/^ {0,3}>/.test(line) || ITEM.test(line))) ||
    (line.includes("|") && DIVIDER.test(next ?? ""));
  while (end < lines.length && !starts(lines[end], lines[end + 1])) end += 1;
  return [h("p", {}, inline(lines.slice(place, end).map((line) => line.trimStart()).join("\n"))), end];
}

// ---- within a line ----------------------------------------------------------------------------------------------

const INLINE = new RegExp(
  [
    /\\([!-/:-@[-`{-~])/, // 1 an escape
    /(`+)(?!`)([^]*?[^`])\2(?!`)/, // 2, 3 code
    /!\[([^\]\n]{0,400})\]\(([^\s()]{1,2000})[^)\n]{0,200}\)/, // 4, 5 a picture, which is not loaded
    /\[([^\]\n]{1,400})\]\(([^\s()]{1,2000}(?:\([^\s()]*\)[^\s()]*)?)(?:\s+"[^"\n]{0,200}")?\)/, // 6, 7 a link
    /(?<![\p{N}*])\*\*(?=\S)([^]{1,2000}?\S)\*\*(?![\p{N}*])/, // 8 strong; 2**3**4 is arithmetic
    /(?<![\p{L}\p{N}_])__(?=\S)([^]{1,2000}?\S)__(?![\p{L}\p{N}_])/, // 9 strong
    /(?<![\p{L}\p{N}*])\*(?=[^\s*])([^*]{1,2000}?)(?<=\S)\*(?![\p{N}A-Za-z*])/, // 10 emphasis; 2*3*4 is arithmetic
    /(?<![\p{L}\p{N}_])_(?=[^\s_])([^_]{1,2000}?)(?<=\S)_(?![\p{L}\p{N}_])/, // 11 emphasis
    /~~(?=\S)([^]{1,2000}?\S)~~/, // 12 struck out
    /((?:http|https):[/][/][^\s<>"'`)\]]{3,2000}[^\s<>"'`)\].,;:!?])/, // 13 an address
    /\[(\d{1,4}(?:[,; ]+\d{1,4})*)\]/, // 14 a citation
  ].map((part) => part.source).join("|"),
  "gu",
);

function inline(text, depth = 0) {
  if (depth > 6) return [text];
  const found = [];
  let last = 0;
  for (const match of text.matchAll(INLINE)) {
    if (match.index > last) found.push(...broken(text.slice(last, match.index)));
    found.push(...[span(match, depth)].flat());
    last = match.index + match[0].length;
  }
  return [...found, ...broken(text.slice(last))];
}

function span(match, depth) {
  if (match[1]) return match[1];
  if (match[3]) return h("code", {}, match[3].replace(/\n/g, " ").replace(/^ (.*) $/, "$1"));
  if (match[5]) return link(`${t("picture")}: ${match[4]}`, match[5]);
  if (match[7]) return link(match[6], match[7]);
  const inner = match[8] ?? match[9];
  if (inner) return h("strong", {}, inline(inner, depth + 1));
  if (match[10] ?? match[11]) return h("em", {}, inline(match[10] ?? match[11], depth + 1));
  if (match[12]) return h("s", {}, inline(match[12], depth + 1));
  if (match[14]) return citing?.(match[14]) ?? match[0];
  return link(match[13], match[13]);
}

// Two spaces or a backslash at its end break a line; other line ends are kept too, as models mean them.
const broken = (text) => text.split(/ *\\?\n/).flatMap((line, place) => (place ? [h("br"), line] : [line])).filter((part) => part !== "");

function link(text, address) {
  let parsed;
  try {
    parsed = new URL(address);
  } catch {
    return text; // relative to nothing
  }
  if (!/^(http|https|mailto):$/.test(parsed.protocol)) return text;
  return h("button", { type: "button", class: "link", title: parsed.href, onclick: () => askToOpen(parsed.href) }, text);
}
