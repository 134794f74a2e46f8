// What the views beside the chat are made of.
import { announce, h } from "/lib/dom.js";
import { errorText } from "/lib/api.js";
import { t } from "/lib/i18n.js";

export const page = (name, controls, ...content) => ({
  bar: [h("h1", { class: "title" }, t(`view_${name}`)), h("span", { class: "spring" }), ...controls],
  body: h("div", { class: "sheet" }, content),
});

// columns: [{ label, of: (row) => text or element, right }]
export function table(caption, columns, rows, empty = t("nothing")) {
  const head = h("tr", {}, columns.map(({ label, right, hidden }) => h("th", { scope: "col", class: right ? "right" : "" }, hidden ? h("span", { class: "visually-hidden" }, label) : label)));
  const body = rows.map((row) => h("tr", {}, columns.map(({ of, right, label }) => h("td", { class: right ? "right n" : "", dataset: { label } }, of(row) ?? "–"))));
  const none = h("tr", {}, h("td", { colSpan: columns.length, class: "soft" }, empty));
  const drawn = h("table", {}, h("caption", { class: "visually-hidden" }, caption), h("thead", {}, head), h("tbody", {}, body.length ? body : none));
  return h("div", { class: "wide-table data", tabIndex: 0, role: "region", "aria-label": caption }, drawn);
}

export const tile = (label, value, note = "") => h("div", { class: "tile" }, h("dt", {}, label), h("dd", {}, h("strong", { class: "n" }, value), note ? h("small", {}, note) : null));

export const section = (title, ...content) => h("section", {}, h("h2", {}, title), content);

export const badge = (text, kind = "") => h("span", { class: `badge ${kind}` }, text);

// Runs an action of a button; what went wrong is said in place.
export async function attempt(action, notice) {
  try {
    notice.hidden = true;
    return await action();
  } catch (error) {
    notice.hidden = false;
    notice.textContent = errorText(error);
    announce(notice.textContent);
    return null;
  }
}

export const noticeBox = () => h("p", { class: "failure", role: "alert", hidden: true });
