// Elements. Text enters the page as text, never as markup; styles are set by property, as the page's policy wants it.
import { ICONS } from "/lib/icons.js";

export const $ = (id) => document.getElementById(id);

// h("button", { class: "wide", onclick: f, "aria-pressed": true }, "text", element, ...)
export function h(name, props = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(props)) set(node, key, value);
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

function set(node, key, value) {
  if (value === null || value === undefined) return;
  if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
  else if (key === "dataset") Object.assign(node.dataset, value);
  else if (key === "style") for (const [name, text] of Object.entries(value)) node.style.setProperty(name, text);
  else if (key.includes("-") || key === "role" || key === "for" || key === "list") node.setAttribute(key, String(value));
  else if (key === "class") node.className = value;
  else node[key] = value;
}

export function s(name, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) if (value !== null) node.setAttribute(key, String(value));
  node.append(...children.flat(Infinity));
  return node;
}

export function icon(name) {
  return s("svg", { viewBox: "0 0 20 20", "aria-hidden": "true", class: "icon" }, ...ICONS[name].map((d) => s("path", { d })));
}

// A button with an icon alone says its name to everybody: readers of the screen by label, others by title.
export function iconButton(name, label, onclick, props = {}) {
  return h("button", { type: "button", "aria-label": label, title: label, onclick, ...props }, icon(name));
}

export function button(text, onclick, props = {}) {
  return h("button", { type: "button", onclick, ...props }, props.icon ? icon(props.icon) : null, h("span", {}, text));
}

let counter = 0;

// A label with its field, and a hint that belongs to it.
export function field(label, input, hint = "") {
  input.id ||= `field-${(counter += 1)}`;
  const note = hint ? h("small", { id: `${input.id}-hint` }, hint) : null;
  if (note) input.setAttribute("aria-describedby", note.id);
  return h("div", { class: "field" }, h("label", { for: input.id }, label), input, note);
}

export function announce(text) {
  $("status").textContent = text;
}

export function download(name, text, type) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  h("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}
