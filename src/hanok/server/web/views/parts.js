// What the views beside the chat are made of.
import { announce, h } from "/lib/dom.js";
import { errorText } from "/lib/api.js";
import { t } from "/lib/i18n.js";

export const page = (name, controls, ...content) => ({
  bar: [h("h1", { class: "title" }, t(`view_${name}`)), h("span", { class: "spring" }), ...controls],
  body: h("div", { class: "sheet" }, content),
});

// columns: [{ label, of: (row) => text or element, right, hidden }]. Rows become cards on a telephone; the roles say that it is a
// table all the same.
export function table(caption, columns, rows, empty = t("nothing")) {
  const name = ({ label, hidden }) => (hidden ? h("span", { class: "visually-hidden" }, label) : label);
  const head = h("tr", { role: "row" }, columns.map((column) => h("th", { scope: "col", role: "columnheader", class: column.right ? "right" : "" }, name(column))));
  const cell = (row) => ({ of, right, label, hidden }) => h("td", { role: "cell", class: right ? "right n" : "", dataset: hidden ? {} : { label } }, of(row) ?? "–");
  const body = rows.map((row) => h("tr", { role: "row" }, columns.map(cell(row))));
  const none = h("tr", { role: "row" }, h("td", { role: "cell", colSpan: columns.length, class: "soft" }, empty));
  const drawn = h("table", { role: "table" }, h("caption", { class: "visually-hidden" }, caption),
    h("thead", { role: "rowgroup" }, head), h("tbody", { role: "rowgroup" }, body.length ? body : none));
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
