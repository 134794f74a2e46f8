// Keys of the API: made (the secret is shown once), limited, revoked.
import { get, post, remove } from "/lib/api.js";
import { button, field, h, icon, iconButton } from "/lib/dom.js";
import { confirmed, dialog } from "/lib/dialogs.js";
import { t, when } from "/lib/i18n.js";
import { server } from "/lib/state.js";
import { limitsField, limitsOf, limitText } from "/views/limits.js";
import { attempt, badge, noticeBox, page, table } from "/views/parts.js";

export const ROLES = ["viewer", "user", "reviewer", "administrator"];

export async function open() {
  const notice = noticeBox();
  const holder = h("div");
  const draw = async () => holder.replaceChildren(list((await get("/admin/keys")).data, notice, draw));
  await draw();
  const make = button(t("new_key"), () => create(notice, draw), { class: "primary", icon: "plus" });
  return page("keys", [make], notice, holder);
}

function list(keys, notice, draw) {
  const status = (key) => {
    if (key.revoked) return badge(t("revoked"), "broken");
    if (key.expires && key.expires * 1000 < Date.now()) return badge(t("expired"), "broken");
    return badge(t("active"), "ready");
  };
  const revoke = async (key) => {
    if (!(await confirmed(t("revoke"), t("revoke_text", { title: key.name || key.id }), t("revoke"), { danger: true }))) return;
    await attempt(async () => {
      await remove(`/admin/keys/${encodeURIComponent(key.id)}`);
      await draw();
    }, notice);
  };
  const rows = [...keys].sort((one, other) => Boolean(one.revoked) - Boolean(other.revoked) || other.created - one.created);
  return table(t("view_keys"), [
    { label: t("name"), of: (key) => [h("b", {}, key.name || "–"), h("small", { class: "mono" }, ` hk_${key.id}_…`)] },
    { label: t("state"), of: status },
    { label: t("role"), of: (key) => t(`role_${key.role}`) },
    { label: t("tenant"), of: (key) => key.tenant },
    { label: t("models"), of: (key) => key.models?.join(", ") ?? t("all") },
    { label: t("limits"), of: (key) => limitText(key.limits) },
    { label: t("last_used"), of: (key) => (key.last_used ? when(key.last_used) : t("never")) },
    { label: t("expires"), of: (key) => (key.expires ? when(key.expires) : t("never")) },
    { label: t("manage"), hidden: true, right: true, of: (key) => (key.revoked ? "" : iconButton("trash", `${t("revoke")}: ${key.name || key.id}`, () => revoke(key), { class: "quiet" })) },
  ], rows);
}

async function create(notice, draw) {
  const body = await dialog(t("new_key"), form);
  if (!body) return;
  const key = await attempt(() => post("/admin/keys", body), notice);
  if (!key) return;
  await draw();
  await showSecret(key);
}

function form(finish) {
  const name = h("input", { required: true, maxLength: 200 });
  const role = h("select", {}, ROLES.map((one) => h("option", { value: one, selected: one === "user" }, t(`role_${one}`))));
  const tenant = h("input", { maxLength: 64, value: server.me?.tenant ?? "default", pattern: "[A-Za-z0-9_\\-]+" });
  const expires = h("input", { type: "date" });
  const models = h("select", { multiple: true, size: Math.min(4, Math.max(2, server.models.length)) }, server.models.map((one) => h("option", { value: one.id }, one.id)));
  const limits = limitsField();
  const submit = (event) => {
    event.preventDefault();
    const chosen = [...models.selectedOptions].map((one) => one.value);
    finish({
      name: name.value.trim(), role: role.value, ...(tenant.value.trim() ? { tenant: tenant.value.trim() } : {}),
      ...(chosen.length ? { models: chosen } : {}), ...(expires.value ? { expires: new Date(`${expires.value}T23:59:59`).getTime() / 1000 } : {}),
      limits: limitsOf(limits),
    });
  };
  return h("form", { onsubmit: submit, class: "fields" }, field(t("name"), name), field(t("role"), role), field(t("tenant"), tenant), field(t("models"), models, t("models_hint")),
    field(t("expires"), expires, t("expires_hint")), limits,
    h("div", { class: "row" }, h("button", { type: "submit", class: "primary" }, t("create")), button(t("cancel"), () => finish(null))));
}

function showSecret(key) {
  const secret = h("input", { readOnly: true, value: key.secret, class: "mono", "aria-label": t("secret") });
  const copied = h("span", { "aria-live": "polite" }, t("copy"));
  const copy = async () => {
    secret.select();
    await navigator.clipboard.writeText(key.secret);
    copied.textContent = t("copied");
  };
  return dialog(t("secret_title", { title: key.name }), (finish) => [
    h("p", {}, t("secret_text")),
    h("div", { class: "secret" }, secret, h("button", { type: "button", class: "plain", onclick: copy }, icon("copy"), copied)),
    h("div", { class: "row" }, button(t("secret_done"), () => finish(true), { class: "primary" })),
  ]);
}
