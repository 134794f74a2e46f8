// The console: what the server offers, the frame around all views, and which view the address names.
import { errorText, get, remove, setCsrf, whenUnauthorised } from "/lib/api.js";
import { $, announce, h, icon, iconButton } from "/lib/dom.js";
import { language, setLanguage, t } from "/lib/i18n.js";
import { has, server } from "/lib/state.js";
import { library, markCurrent } from "/chat/library.js";
import { begin, leave, open, session, stop } from "/chat/session.js";
import { chatView } from "/chat/view.js";
import { VIEWS } from "/views/index.js";

const LOGIN = { name: "login", open: async () => (await import("/views/login.js")).open() };
let shown = null; // view that is on the page; `leave` is called when another comes

const OTHER = { ko: ["en", "English"], en: ["ko", "한국어"] };

// ---- the frame --------------------------------------------------------------------------------------------------

function drawFrame() {
  document.documentElement.lang = language();
  $("skip").textContent = t("skip");
  const side = $("side");
  side.setAttribute("aria-label", t("navigation"));
  const inside = signedOut() ? [h("div", { class: "library" })] : [newChat(), views(), has("conversations") ? library() : h("div", { class: "library" })];
  side.replaceChildren(brand(), ...inside, foot());
}

function brand() {
  const mark = $("mark").content.firstElementChild.cloneNode(true);
  return h("div", { class: "brand" }, mark, h("span", { class: "name" }, "Hanok"), iconButton("close", t("close_menu"), () => menu(false), { class: "only-phone" }));
}

function newChat() {
  const start = () => {
    begin();
    if (location.hash === "#/chat" || location.hash === "") show();
    else location.hash = "#/chat";
    menu(false);
  };
  return h("button", { type: "button", id: "new", class: "new", onclick: start }, icon("plus"), h("span", {}, t("new_chat")));
}

function views() {
  const there = VIEWS.filter((view) => !view.needs || has(view.needs));
  const links = there.map((view) => h("li", {}, h("a", { href: `#/${view.name}`, dataset: { view: view.name } }, icon(view.icon), h("span", {}, t(`view_${view.name}`)))));
  return h("nav", { "aria-label": t("views") }, h("ul", { id: "views" }, links));
}

function foot() {
  const [, name] = OTHER[language()];
  const change = h("button", { type: "button", id: "language", lang: OTHER[language()][0], onclick: switchLanguage }, name);
  const theme = iconButton("theme", t("theme"), switchTheme, { id: "theme" });
  const me = server.me?.kind === "user" ? server.me.name : "";
  const out = me ? iconButton("leave", t("sign_out"), signOut, { id: "sign-out" }) : null;
  return h("div", { class: "foot" }, h("span", { class: "me" }, me), out, change, theme);
}

function switchLanguage() {
  setLanguage(OTHER[language()][0]);
  drawFrame();
  show();
  $("language").focus();
}

function switchTheme() {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("hanok.theme", root.dataset.theme);
}

async function signOut() {
  await leave();
  await remove("/session");
  sessionStorage.clear(); // the next person's tab knows nothing of this one's conversation
  location.replace("/");
}

// On a telephone the frame is a drawer over the page.
function menu(on) {
  document.body.classList.toggle("menu", on);
  const narrow = matchMedia("(max-width: 52rem)").matches;
  $("side").inert = narrow && !on;
  $("page").inert = narrow && on;
  document.querySelector("#menu-button")?.setAttribute("aria-expanded", String(on));
  if (on) $("side").querySelector("button").focus();
  else if (narrow) document.querySelector("#menu-button")?.focus({ preventScroll: true });
}

// ---- views ------------------------------------------------------------------------------------------------------

async function show() {
  const [, name = "chat", argument] = location.hash.split("/");
  const view = viewOf(name);
  shown?.leave?.();
  shown = { leave: null };
  const mine = shown;
  for (const link of document.querySelectorAll("#views a")) {
    if (link.dataset.view === view.name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  try {
    if (view.name === "chat" && argument) await open(decodeURIComponent(argument));
    const drawn = view.name === "chat" ? chatView() : await view.open(argument);
    if (shown !== mine) return drawn.leave?.(); // another view came first
    Object.assign(shown, drawn);
    put(drawn);
  } catch (error) {
    put({ bar: [h("h1", { class: "title" }, t(`view_${view.name}`))], body: h("p", { class: "failure", role: "alert" }, errorText(error)) });
  }
  document.title = view.name === "chat" ? "Hanok" : `${t(`view_${view.name}`)} · Hanok`;
  markCurrent();
}

function viewOf(name) {
  if (signedOut()) return LOGIN;
  return VIEWS.find((one) => one.name === name && (!one.needs || has(one.needs))) ?? VIEWS[0];
}

const signedOut = () => server.session !== null && !server.session.signed_in;

function put({ bar, body, focus }) {
  const menuButton = iconButton("menu", t("open_menu"), () => menu(true), { id: "menu-button", class: "only-phone", "aria-expanded": false, "aria-controls": "side" });
  $("bar").replaceChildren(menuButton, ...bar);
  $("view").replaceChildren(body);
  if (focus) focus();
  else $("view").focus({ preventScroll: true });
}

// ---- start ------------------------------------------------------------------------------------------------------

async function load() {
  const about = await get("/console.json");
  Object.assign(server, { me: about.me, features: new Set(about.features), runsHouse: about.runs_house });
  if (has("session")) await loadSession();
  if (signedOut()) return;
  const [models, examples] = await Promise.all([get("/v1/models"), get("/examples.json")]);
  Object.assign(server, { models: models.data, examples });
}

async function loadSession() {
  server.session = await get("/session");
  server.me = server.session.principal;
  setCsrf(server.session.csrf);
}

addEventListener("hashchange", () => {
  menu(false);
  show();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.isComposing || document.querySelector("dialog[open]")) return;
  if (document.body.classList.contains("menu")) menu(false);
  else if (session.running) stop();
});
matchMedia("(max-width: 52rem)").addEventListener("change", () => menu(false));
$("shade").addEventListener("click", () => menu(false));

whenUnauthorised(() => {
  if (server.session?.signed_in) location.reload(); // the session has ended
});

load()
  .catch((error) => announce(errorText(error)))
  .finally(async () => {
    drawFrame();
    menu(false);
    await show();
    document.body.classList.add("ready");
  });
