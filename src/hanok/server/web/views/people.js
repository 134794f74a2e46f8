// People who sign in, and the tenants that they belong to.
import { get, post, remove, request } from "/lib/api.js";
import { button, field, h, iconButton } from "/lib/dom.js";
import { confirmed, dialog } from "/lib/dialogs.js";
import { t, when } from "/lib/i18n.js";
import { server } from "/lib/state.js";
import { ROLES } from "/views/keys.js";
import { limitsField, limitsOf, limitText } from "/views/limits.js";
import { attempt, badge, noticeBox, page, section, table } from "/views/parts.js";

const change = (path, body) => request(path, { method: "PATCH", body });

export async function open() {
  const notice = noticeBox();
  const holder = h("div");
  const draw = async () => {
    const [users, tenants] = await Promise.all([get("/admin/users"), get("/admin/tenants")]);
    const house = server.me?.permissions?.includes("tenants:manage") ?? true;
    holder.replaceChildren(
      section(t("people"), userTable(users.data, notice, draw)),
      section(t("tenants"), tenantTable(tenants.data, notice, draw, house), house ? button(t("new_tenant"), () => newTenant(notice, draw), { class: "plain", icon: "plus" }) : null),
    );
  };
  await draw();
  return page("people", [button(t("new_person"), () => newPerson(notice, draw), { class: "primary", icon: "plus" })], notice, holder);
}

function userTable(users, notice, draw) {
  const path = (user) => `/admin/users/${encodeURIComponent(user.id)}`;
  const act = (action) => attempt(async () => {
    await action();
    await draw();
  }, notice);
  const role = (user) => h("select", { "aria-label": `${t("role")}: ${user.name}`, onchange: (event) => act(() => change(path(user), { role: event.target.value })) },
    ROLES.map((one) => h("option", { value: one, selected: one === user.role }, t(`role_${one}`))));
  const drop = async (user) => {
    if (await confirmed(t("delete"), t("delete_text", { title: user.name }), t("delete"), { danger: true })) act(() => request(path(user), { method: "DELETE" }));
  };
  return table(t("people"), [
    { label: t("name"), of: (user) => h("b", {}, user.name) },
    { label: t("state"), of: (user) => (user.disabled ? badge(t("disabled"), "broken") : badge(t("active"), "ready")) },
    { label: t("role"), of: role },
    { label: t("tenant"), of: (user) => user.tenant },
    { label: t("limits"), of: (user) => limitText(user.limits) },
    { label: t("last_login"), of: (user) => (user.last_login ? when(user.last_login) : t("never")) },
    { label: t("manage"), hidden: true, right: true, of: (user) => h("span", { class: "buttons" },
      button(t(user.disabled ? "enable" : "disable"), () => act(() => change(path(user), { disabled: !user.disabled })), { class: "quiet" }),
      iconButton("trash", `${t("delete")}: ${user.name}`, () => drop(user), { class: "quiet" })) },
  ], users);
}

function tenantTable(tenants, notice, draw, house) {
  const path = (tenant) => `/admin/tenants/${encodeURIComponent(tenant.id)}`;
  const act = (action) => attempt(async () => {
    await action();
    await draw();
  }, notice);
  const drop = async (tenant) => {
    if (await confirmed(t("delete"), t("tenant_text", { title: tenant.name || tenant.id }), t("delete"), { danger: true })) act(() => remove(path(tenant)));
  };
  const buttons = (tenant) => (tenant.id === "default" || !house ? "" : h("span", { class: "buttons" },
    button(t(tenant.suspended ? "enable" : "suspend"), () => act(() => change(path(tenant), { suspended: !tenant.suspended })), { class: "quiet" }),
    iconButton("trash", `${t("delete")}: ${tenant.id}`, () => drop(tenant), { class: "quiet" })));
  return table(t("tenants"), [
    { label: t("name"), of: (tenant) => [h("b", {}, tenant.name || tenant.id), tenant.name === tenant.id ? "" : h("small", {}, ` ${tenant.id}`)] },
    { label: t("state"), of: (tenant) => (tenant.suspended ? badge(t("suspended"), "broken") : badge(t("active"), "ready")) },
    { label: t("limits"), of: (tenant) => limitText(tenant.limits) },
    { label: t("manage"), hidden: true, right: true, of: buttons },
  ], tenants);
}

async function newPerson(notice, draw) {
  const body = await dialog(t("new_person"), (finish) => {
    const name = h("input", { required: true, maxLength: 200, autocomplete: "off" });
    const password = h("input", { type: "password", maxLength: 1000, autocomplete: "new-password" });
    const role = h("select", {}, ROLES.map((one) => h("option", { value: one, selected: one === "user" }, t(`role_${one}`))));
    const tenant = h("input", { value: server.me?.tenant ?? "default", maxLength: 64 });
    const limits = limitsField();
    const submit = (event) => {
      event.preventDefault();
      const secret = password.value ? { password: password.value } : {};
      finish({ name: name.value.trim(), role: role.value, tenant: tenant.value.trim(), limits: limitsOf(limits), ...secret });
    };
    return h("form", { onsubmit: submit, class: "fields" }, field(t("name"), name), field(t("password"), password, t("password_hint")), field(t("role"), role), field(t("tenant"), tenant), limits,
      h("div", { class: "row" }, h("button", { type: "submit", class: "primary" }, t("create")), button(t("cancel"), () => finish(null))));
  });
  if (body && (await attempt(() => post("/admin/users", body), notice))) await draw();
}

async function newTenant(notice, draw) {
  const body = await dialog(t("new_tenant"), (finish) => {
    const id = h("input", { required: true, maxLength: 64, pattern: "[A-Za-z0-9_\\-]+" });
    const name = h("input", { maxLength: 200 });
    const limits = limitsField();
    const submit = (event) => {
      event.preventDefault();
      finish({ id: id.value, name: name.value.trim(), limits: limitsOf(limits) });
    };
    return h("form", { onsubmit: submit, class: "fields" }, field(t("identifier"), id), field(t("name"), name), limits,
      h("div", { class: "row" }, h("button", { type: "submit", class: "primary" }, t("create")), button(t("cancel"), () => finish(null))));
  });
  if (body && (await attempt(() => post("/admin/tenants", body), notice))) await draw();
}
