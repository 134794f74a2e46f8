// What an answer rests on: chips that open the passage.
import { h, icon } from "/lib/dom.js";
import { told } from "/lib/dialogs.js";
import { t } from "/lib/i18n.js";

export function citations(list) {
  return h("ul", { class: "citations", "aria-label": t("citations") }, list.map((one, place) => h("li", {}, chip(one, place))));
}

function chip(one, place) {
  const name = one.filename || one.file_id;
  return h("button", { type: "button", class: "chip", onclick: () => passage(one) }, h("span", { class: "n" }, String(place + 1)), icon("page"), h("span", {}, name));
}

function passage(one) {
  const words = one.quote ? h("blockquote", { class: "passage", tabIndex: 0 }, one.quote) : h("p", {}, t("no_passage"));
  return told(one.filename || one.file_id, words, one.place ? h("p", { class: "soft" }, one.place) : null);
}
