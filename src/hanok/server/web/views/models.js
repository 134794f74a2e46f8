// Models and adapters: in memory or not, and an administrator's hand on that.
import { get, post, remove } from "/lib/api.js";
import { button, field, h, iconButton } from "/lib/dom.js";
import { confirmed, dialog } from "/lib/dialogs.js";
import { number, t } from "/lib/i18n.js";
import { server } from "/lib/state.js";
import { attempt, badge, noticeBox, page, table } from "/views/parts.js";

const path = (name) => name.split("/").map(encodeURIComponent).join("/");

export async function open() {
  const notice = noticeBox();
  const holder = h("div");
  const draw = async () => {
    server.models = (await get("/v1/models")).data;
    holder.replaceChildren(list(server.models, notice, draw));
  };
  await draw();
  return page("models", [button(t("load_adapter"), () => loadAdapter(notice, draw), { class: "primary", icon: "plus" })], notice, holder);
}

function list(models, notice, draw) {
  const act = (action) => async (event) => {
    event.target.closest("button").disabled = true;
    await attempt(action, notice);
    await attempt(draw, notice);
  };
  const drop = async (model) => {
    if (!(await confirmed(t("unload"), t("unload_text", { title: model.id }), t("unload"), { danger: true }))) return;
    await attempt(() => remove(`/admin/adapters/${path(model.id)}`), notice);
    await attempt(draw, notice);
  };
  const buttons = (model) => {
    if (model.parent) return iconButton("trash", `${t("unload")}: ${model.id}`, () => drop(model), { class: "quiet" });
    const what = model.loaded ? "unload" : "load";
    return button(t(what), act(() => post(`/admin/models/${path(model.id)}/${what}`)), { class: "plain", "aria-label": `${t(what)}: ${model.id}` });
  };
  return table(t("view_models"), [
    { label: t("name"), of: (model) => h("b", {}, model.id) },
    { label: t("state"), of: (model) => badge(t(model.loaded ? "state_loaded" : "state_unloaded"), model.loaded ? "loaded" : "") },
    { label: t("kind"), of: (model) => (model.parent ? t("adapter_of", { name: model.parent }) : t("model")) },
    { label: t("context"), right: true, of: (model) => (model.context_length ? number(model.context_length) : null) },
    { label: t("manage"), hidden: true, right: true, of: buttons },
  ], models);
}

async function loadAdapter(notice, draw) {
  const body = await dialog(t("load_adapter"), (finish) => {
    const name = h("input", { required: true, maxLength: 128 });
    const directory = h("input", { required: true, maxLength: 4096, class: "mono" });
    const model = h("select", {}, server.models.filter((one) => !one.parent).map((one) => h("option", { value: one.id }, one.id)));
    const submit = (event) => {
      event.preventDefault();
      finish({ name: name.value.trim(), directory: directory.value.trim(), model: model.value });
    };
    return h("form", { onsubmit: submit, class: "fields" }, field(t("name"), name), field(t("directory"), directory, t("directory_hint")), field(t("model"), model),
      h("div", { class: "row" }, h("button", { type: "submit", class: "primary" }, t("load")), button(t("cancel"), () => finish(null))));
  });
  if (body && (await attempt(() => post("/admin/adapters", body), notice))) await attempt(draw, notice);
}
