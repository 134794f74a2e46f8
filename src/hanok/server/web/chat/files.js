// Documents in a chat: files that are uploaded into a collection of its own, collections that are there already, and the
// passages that an answer rests on.
import { errorText, get, post, remove, request } from "/lib/api.js";
import { announce, button, h, icon, iconButton } from "/lib/dom.js";
import { dialog, told } from "/lib/dialogs.js";
import { t } from "/lib/i18n.js";
import { titleOf } from "/lib/tree.js";
import { changed, session } from "/chat/session.js";

const OURS = "console"; // in a collection's metadata: the conversation that it was made for
const ACCEPT = ".txt,.md,.html,.htm,.pdf,.json,.jsonl,.csv,.parquet";

// ---- what goes with the question ----------------------------------------------------------------------------------

// Chips of files and collections above the box to write in.
export function attachments() {
  const holder = h("div", { class: "attached", "aria-label": t("documents"), role: "group" });
  const draw = () => {
    const { files = [], collections = [] } = session.talk;
    const chips = [...files.map((file) => chip(file, "page", () => detach(file, draw))), ...collections.map((one) => chip(one, "book", () => leave(one, draw)))];
    holder.replaceChildren(...chips);
    holder.hidden = chips.length === 0;
  };
  draw();
  return { node: holder, draw };
}

const chip = (one, sign, ondrop) => h("span", { class: "chip" }, icon(sign), h("span", {}, one.name), iconButton("close", `${t("remove")}: ${one.name}`, ondrop));

// Files that were chosen or dropped.
export async function upload(files, draw) {
  for (const file of files) {
    announce(t("uploading", { name: file.name }));
    try {
      const form = new FormData();
      form.append("purpose", "assistants");
      form.append("file", file);
      const kept = await (await request("/v1/files", { method: "POST", body: form })).json();
      await attach(kept);
      announce(t("uploaded", { name: file.name }));
    } catch (error) {
      await told(t("not_uploaded", { name: file.name }), h("p", {}, errorText(error)));
    }
    draw();
  }
}

async function attach(file) {
  const { talk } = session;
  if (talk.own_store) await post(`/v1/vector_stores/${talk.own_store}/files`, { file_id: file.id });
  else talk.own_store = (await post("/v1/vector_stores", { name: titleOf(talk), file_ids: [file.id], metadata: { [OURS]: talk.id } })).id;
  talk.files = [...(talk.files ?? []).filter((one) => one.id !== file.id), { id: file.id, name: file.filename }];
  changed();
}

async function detach(file, draw) {
  const { talk } = session;
  try {
    await remove(`/v1/vector_stores/${talk.own_store}/files/${file.id}`);
    talk.files = talk.files.filter((one) => one.id !== file.id);
    changed();
  } catch (error) {
    announce(errorText(error));
  }
  draw();
}

function leave(collection, draw) {
  session.talk.collections = session.talk.collections.filter((one) => one.id !== collection.id);
  changed();
  draw();
}

// A dialog: upload, or choose among the collections of the house.
export async function chooseDocuments(draw) {
  const { data } = await get("/v1/vector_stores?limit=100");
  const others = data.filter((one) => !one.metadata?.[OURS]);
  const chosen = new Set((session.talk.collections ?? []).map((one) => one.id));
  const result = await dialog(t("documents"), (finish) => {
    const pick = h("input", { type: "file", multiple: true, accept: ACCEPT, "aria-label": t("upload") });
    pick.addEventListener("change", () => finish({ files: [...pick.files] }));
    const boxes = others.map((one) => h("label", { class: "check" }, h("input", { type: "checkbox", value: one.id, checked: chosen.has(one.id) }), `${one.name || one.id} (${one.file_counts.total})`));
    const list = h("fieldset", { class: "collections" }, h("legend", {}, t("collections")), boxes.length ? boxes : h("p", { class: "soft" }, t("nothing")));
    const done = () => finish({ ids: [...list.querySelectorAll("input:checked")].map((box) => box.value) });
    return [h("p", {}, t("documents_text")), h("div", { class: "upload" }, pick), list, h("div", { class: "row" }, button(t("done"), done, { class: "primary" }), button(t("cancel"), () => finish(null)))];
  });
  if (result?.files) await upload(result.files, draw);
  if (result?.ids) {
    session.talk.collections = others.filter((one) => result.ids.includes(one.id)).map(({ id, name }) => ({ id, name: name || id }));
    changed();
    draw();
  }
}

// A conversation that goes takes the collection along that was made for it.
export async function forget(talk) {
  if (talk.own_store) await remove(`/v1/vector_stores/${talk.own_store}`).catch((error) => announce(errorText(error)));
}

// ---- what an answer rests on ----------------------------------------------------------------------------------------

// For the Markdown of an answer: a button for each number in "[1, 3]" that the answer has a passage for, null for other brackets.
export function citer(list) {
  return (inside) => {
    const numbers = inside.split(/[\s,;]+/).map(Number);
    const found = numbers.map((number) => list.find((one) => one.number === number));
    return found.every(Boolean) ? found.map((one) => h("button", { type: "button", class: "cite", title: one.filename, "aria-label": `${t("citation")} ${one.number}: ${one.filename}`, onclick: () => passage(one) }, String(one.number))) : null;
  };
}

export function citations(list) {
  const known = new Map(list.map((one) => [one.number, one]));
  const chips = [...known.values()].map((one) => h("li", {}, h("button", { type: "button", class: "chip", onclick: () => passage(one) }, h("span", { class: "n" }, String(one.number)), icon("page"), h("span", {}, one.filename || one.file_id))));
  return h("ul", { class: "citations", "aria-label": t("citations") }, chips);
}

// The passage as the library has it now; as the answer had it where the file is gone.
async function passage(one) {
  let text = one.text;
  let heading = "";
  let gone = false;
  try {
    const found = await get(`/v1/files/${encodeURIComponent(one.file_id)}/passages/${one.passage}`);
    [text, heading] = [found.text, found.heading];
  } catch {
    gone = true;
  }
  const words = h("blockquote", { class: "passage", tabIndex: 0, dir: "auto" }, text);
  return told(one.filename || one.file_id, heading ? h("p", { class: "soft" }, heading) : null, words, gone ? h("p", { class: "soft" }, t("no_passage")) : null);
}
