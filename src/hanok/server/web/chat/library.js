// Saved conversations at the side: found by words, opened, renamed, exported, deleted.
import { errorText, get, put, remove, request } from "/lib/api.js";
import { $, announce, button, download, h, icon, iconButton } from "/lib/dom.js";
import { asked, confirmed, dialog } from "/lib/dialogs.js";
import { t, when } from "/lib/i18n.js";
import { forget } from "/chat/files.js";
import { begin, listen, session } from "/chat/session.js";

const PATH = "/console/conversations";
let list = null;
let words = "";
let after = null;

export function library() {
  list = h("ul", { id: "talks", "aria-label": t("talks") });
  let timer = 0;
  const search = h("input", { type: "search", id: "search", value: words, placeholder: t("search"), "aria-label": t("search") });
  search.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      words = search.value.trim();
      load();
    }, 200);
  });
  load();
  const all = iconButton("save", t("export_all"), () => exportTalk(null), { class: "quiet" });
  const head = h("div", { class: "library-head" }, h("h2", {}, t("talks")), all);
  return h("section", { class: "library" }, head, h("div", { class: "search" }, icon("search"), search), list);
}

async function load(more = false) {
  const query = new URLSearchParams({ q: words, limit: "40", ...(more && after ? { after } : {}) });
  try {
    const found = await get(`${PATH}?${query}`);
    after = found.next;
    list.querySelector(".more-talks")?.remove();
    const rows = found.data.map(row);
    if (more) list.append(...rows);
    else list.replaceChildren(...(rows.length ? rows : [h("li", { class: "soft" }, t(words ? "nothing_found" : "no_talks"))]));
    if (found.has_more) list.append(h("li", { class: "more-talks" }, button(t("more"), () => load(true))));
  } catch (error) {
    list.replaceChildren(h("li", { class: "soft" }, errorText(error)));
  }
}

function row(talk) {
  const current = talk.id === session.talk.id && location.hash.startsWith("#/chat");
  const open = h("a", { href: `#/chat/${talk.id}`, ...(current ? { "aria-current": "page" } : {}) }, h("span", { class: "talk-title" }, talk.title), h("small", {}, when(talk.updated)));
  const menu = iconButton("gear", `${t("manage")}: ${talk.title}`, () => manage(talk), { class: "quiet" });
  return h("li", { dataset: { id: talk.id } }, open, menu);
}

async function manage(talk) {
  const chosen = await dialog(talk.title, (finish) => h("div", { class: "choices" },
    button(t("rename"), () => finish("rename"), { icon: "pencil" }),
    button(t("export_jsonl"), () => finish("jsonl"), { icon: "save" }),
    button(t("export_markdown"), () => finish("markdown"), { icon: "save" }),
    button(t("delete"), () => finish("delete"), { icon: "trash", class: "danger-text" }),
    button(t("cancel"), () => finish(null)),
  ));
  try {
    if (chosen === "rename") await rename(talk);
    else if (chosen === "delete") await drop(talk);
    else if (chosen) await exportTalk(talk.id, chosen);
  } catch (error) {
    announce(errorText(error));
  }
}

async function rename(talk) {
  const title = await asked(t("rename"), t("name"), talk.title);
  if (!title) return;
  const { id, object, created, updated, ...body } = await get(`${PATH}/${talk.id}`);
  const kept = await put(`${PATH}/${talk.id}`, { ...body, title });
  if (session.talk.id === talk.id) Object.assign(session.talk, { title, version: kept.version });
  load();
}

async function drop(talk) {
  if (!(await confirmed(t("delete"), t("delete_text", { title: talk.title }), t("delete"), { danger: true }))) return;
  const whole = await get(`${PATH}/${talk.id}`);
  await remove(`${PATH}/${talk.id}`);
  await forget(whole);
  announce(t("deleted"));
  if (session.talk.id === talk.id) {
    begin();
    location.hash = "#/chat";
  }
  load();
}

async function exportTalk(id, format = "jsonl") {
  const query = new URLSearchParams({ format, ...(id ? { id } : {}) });
  const response = await request(`${PATH}/export?${query}`);
  const name = /filename="([^"]+)"/.exec(response.headers.get("Content-Disposition") ?? "")?.[1] ?? "export";
  download(name, await response.text(), "text/plain");
}

export function markCurrent() {
  for (const link of list?.querySelectorAll("a") ?? []) {
    if (location.hash === link.getAttribute("href")) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

listen((kind) => {
  if (kind === "saved" && $("talks")) load();
});
