// Signing in: a password, the provider of the house, or the first administrator with the token that the server printed.
import { errorText, request } from "/lib/api.js";
import { $, field, h } from "/lib/dom.js";
import { t } from "/lib/i18n.js";
import { server } from "/lib/state.js";
import { noticeBox } from "/views/parts.js";

export async function open() {
  const { login } = server.session;
  const house = $("house").content.firstElementChild.cloneNode(true);
  const body = h("div", { class: "login" }, house, h("h2", {}, t(login?.setup ? "setup_title" : "view_login")), login?.setup ? setupForm() : passwordForm(login));
  return { bar: [h("h1", { class: "visually-hidden" }, t("view_login"))], body, focus: () => body.querySelector("input")?.focus() };
}

function passwordForm(login) {
  const name = h("input", { required: true, autocomplete: "username", maxLength: 200 });
  const password = h("input", { required: true, type: "password", autocomplete: "current-password", maxLength: 1000 });
  const oidc = login?.oidc ? h("a", { class: "oidc", href: "/session/oidc" }, t("sign_in_with", { name: login.oidc })) : null;
  return form([field(t("name"), name), field(t("password"), password)], () => ["/session", { name: name.value, password: password.value }], t("sign_in"), oidc);
}

function setupForm() {
  const token = h("input", { required: true, autocomplete: "off", maxLength: 200 });
  const name = h("input", { required: true, autocomplete: "username", maxLength: 200 });
  const password = h("input", { required: true, type: "password", autocomplete: "new-password", maxLength: 1000 });
  const fields = [field(t("setup_token"), token, t("setup_hint")), field(t("name"), name), field(t("password"), password)];
  return form(fields, () => ["/session/setup", { token: token.value.trim(), name: name.value, password: password.value }], t("create"));
}

function form(fields, body, words, extra = null) {
  const notice = noticeBox();
  const node = h("form", { class: "fields" }, notice, fields, h("button", { type: "submit", class: "primary" }, words), extra);
  node.addEventListener("submit", async (event) => {
    event.preventDefault();
    const [path, values] = body();
    try {
      await request(path, { method: "POST", body: values, quiet: true });
      location.replace("/"); // everything anew, as somebody
    } catch (error) {
      notice.hidden = false;
      notice.textContent = error.status === 401 ? t("wrong_password") : errorText(error);
    }
  });
  return node;
}
