// The guard's policy: what is in force, an editor with a box to try the edited text on, and what changes before it is saved.
import { errorText, get, post, put } from "/lib/api.js";
import { announce, button, field, h, icon } from "/lib/dom.js";
import { confirmed, dialog } from "/lib/dialogs.js";
import { diff, shortened } from "/lib/diff.js";
import { t } from "/lib/i18n.js";
import { marked } from "/lib/spans.js";
import { server } from "/lib/state.js";
import { attempt, badge, noticeBox, page, section, table } from "/views/parts.js";

const ORIGINS = ["user", "system", "assistant", "tool", "document", "definition"];
const WAIT = 400; // milliseconds after the last letter until the text is checked
const state = { tenant: null, drafts: {}, text: "", origin: "user", hidden: "" }; // drafts by tenant: they survive other views

export async function open() {
  const notice = noticeBox();
  const holder = h("div", { class: "policy" });
  const saveButton = button(t("policy_save"), () => save(view, notice), { class: "primary", icon: "save", id: "save-policy", disabled: true });
  const view = { policy: null, editor: null, saveButton, draw: () => draw(view, holder, notice) };
  await view.draw();
  const leave = () => clearTimeout(view.timer);
  return { ...page("policy", [tenantField(view, notice), saveButton].filter(Boolean), notice, holder), leave };
}

function tenantField(view, notice) {
  if (!server.runsHouse) return null;
  const names = [...new Set([server.me?.tenant ?? "default", ...view.policy.tenants])];
  const choose = (event) => {
    state.tenant = event.target.value;
    attempt(view.draw, notice);
  };
  return h("select", { id: "policy-tenant", "aria-label": t("tenant"), onchange: choose }, names.map((name) => h("option", { value: name, selected: name === view.policy.tenant }, name)));
}

const whose = (view) => (server.runsHouse ? "" : view.policy.tenant); // the house edits one text for all

async function draw(view, holder, notice) {
  const chosen = state.tenant && server.runsHouse ? `?tenant=${encodeURIComponent(state.tenant)}` : "";
  view.policy = await get(`/admin/policy${chosen}`);
  const draft = state.drafts[whose(view)];
  const changedBelow = draft && draft.hash !== view.policy.hash;
  view.hash = changedBelow ? draft.hash : view.policy.hash;
  view.editor = editor(draft?.text ?? view.policy.text, (text) => edited(view, text));
  holder.replaceChildren(...[
    head(view, notice),
    changedBelow ? h("p", { class: "failure" }, t("policy_changed")) : null,
    h("div", { class: "policy-columns" },
      section(t("policy_text"), view.editor.node, view.editor.problem, buttons(view)),
      section(t("policy_try"), tryBox(view))),
    section(t("policy_rules", { tenant: view.policy.tenant }), rules(view.policy)),
  ].filter(Boolean));
  edited(view, view.editor.text());
}

function head(view, notice) {
  const { policy } = view;
  const source = policy.kind === "file" ? h("code", {}, policy.source) : t(`policy_${policy.kind}`);
  const words = [h("p", {}, t("policy_source"), " ", source, " ", h("small", { class: "mono", title: policy.hash }, policy.hash ? `${policy.hash.slice(0, 12)}…` : ""))];
  if (!policy.editable) words.push(h("p", { class: "soft", id: "why-not" }, !server.runsHouse ? t("policy_not_yours") : policy.kind === "file" ? t("policy_not_writable") : t("policy_no_file")));
  if (policy.on_disk) words.push(h("p", { class: "failure", id: "on-disk" }, t("policy_on_disk"), " ", button(t("policy_take_file"), () => attempt(() => takeFile(view), notice), { class: "plain" })));
  return h("div", { class: "policy-head" }, words);
}

// What stands in the file now becomes the draft, and what the draft is compared with.
function takeFile(view) {
  state.drafts[whose(view)] = { text: view.policy.on_disk.text, hash: view.policy.on_disk.hash };
  view.hash = view.policy.on_disk.hash;
  view.editor.put(view.policy.on_disk.text);
  edited(view, view.policy.on_disk.text);
}

function buttons(view) {
  const changes = button(t("policy_diff"), () => dialog(t("policy_diff"), (finish) => [diffTable(view.policy.text, view.editor.text()), h("div", { class: "row" }, button(t("close"), () => finish(null), { class: "primary" }))], { wide: true }), { class: "plain", id: "show-diff" });
  const undo = button(t("policy_undo"), () => {
    delete state.drafts[whose(view)];
    view.hash = view.policy.hash;
    view.editor.put(view.policy.text);
    edited(view, view.policy.text);
  }, { class: "plain", id: "undo-policy" });
  view.buttons = [changes, undo];
  return h("div", { class: "row" }, changes, undo);
}

// ---- the editor ------------------------------------------------------------------------------------------------------

// A text with the numbers of its lines, one of which may be wrong.
function editor(text, onchange) {
  const area = h("textarea", { id: "policy-text", class: "mono", spellcheck: false, wrap: "off", value: text, maxLength: 200000, "aria-label": t("policy_text"), "aria-describedby": "policy-problem" });
  const gutter = h("div", { class: "gutter mono", "aria-hidden": "true" });
  const problem = h("p", { id: "policy-problem", role: "status" });
  let wrong = null;
  const number = () => {
    const count = area.value.split("\n").length;
    gutter.replaceChildren(...Array.from({ length: count }, (_, place) => h("span", { class: place + 1 === wrong ? "wrong" : "" }, String(place + 1))));
    gutter.scrollTop = area.scrollTop;
  };
  area.addEventListener("scroll", () => (gutter.scrollTop = area.scrollTop));
  area.addEventListener("input", () => {
    number();
    onchange(area.value);
  });
  number();
  const goTo = (line) => {
    const start = area.value.split("\n").slice(0, line - 1).join("\n").length + (line > 1 ? 1 : 0);
    const end = area.value.indexOf("\n", start);
    area.focus();
    area.setSelectionRange(start, end < 0 ? area.value.length : end);
    area.scrollTop = Math.max(0, (line - 4) * (area.scrollHeight / area.value.split("\n").length));
  };
  const tell = (found) => {
    wrong = found?.line ?? null;
    area.setAttribute("aria-invalid", String(Boolean(found)));
    number();
    const where = found?.line ? [button(t("line_n", { n: found.line }), () => goTo(found.line), { class: "link" }), ": "] : [];
    problem.className = found ? "problem" : "soft";
    problem.replaceChildren(...(found ? [...where, [found.message, found.remedy].filter(Boolean).join("; ")] : [t("policy_fine")]));
  };
  const put = (words) => {
    area.value = words;
    number();
  };
  return { node: h("div", { class: "code-editor" }, gutter, area), problem, text: () => area.value, tell, put };
}

function edited(view, text) {
  const same = text === view.policy.text;
  if (same) delete state.drafts[whose(view)];
  else state.drafts[whose(view)] = { text, hash: view.hash };
  view.wrong = false;
  view.saveButton.disabled = !view.policy.editable || (same && view.hash === view.policy.hash && !view.policy.on_disk);
  for (const one of view.buttons) one.disabled = same;
  clearTimeout(view.timer);
  view.timer = setTimeout(() => check(view), WAIT);
}

// The edited text is read, and what stands in the box is put to it.
async function check(view) {
  const mine = (view.checking = {});
  const body = { policy: view.editor.text(), text: state.text, origin: state.origin, hidden: state.hidden, tenant: view.policy.tenant };
  let tried;
  try {
    tried = await post("/admin/policy/try", body);
  } catch (error) {
    tried = { problem: { message: errorText(error), line: null, remedy: "" } };
  }
  if (view.checking !== mine || !view.editor.node.isConnected) return; // a later one is under way
  view.editor.tell(tried.problem);
  if (tried.problem) view.saveButton.disabled = true;
  view.verdicts.replaceChildren(...(tried.input ? ["input", "output"].map((side) => verdict(side, tried[side])) : [h("p", { class: "soft" }, t(tried.problem ? "policy_try_mend" : "policy_try_empty"))]));
}

// ---- trying it out ---------------------------------------------------------------------------------------------------

function tryBox(view) {
  const later = () => {
    clearTimeout(view.timer);
    view.timer = setTimeout(() => check(view), WAIT);
  };
  const text = h("textarea", { id: "try-text", rows: 4, value: state.text, maxLength: 20000, placeholder: t("policy_try_placeholder") });
  const origin = h("select", { id: "try-origin" }, ORIGINS.map((one) => h("option", { value: one, selected: one === state.origin }, t(`origin_${one}`))));
  const hidden = h("textarea", { rows: 2, value: state.hidden, maxLength: 20000 });
  text.addEventListener("input", () => ((state.text = text.value), later()));
  hidden.addEventListener("input", () => ((state.hidden = hidden.value), later()));
  origin.addEventListener("change", () => ((state.origin = origin.value), later()));
  view.verdicts = h("div", { id: "verdicts", role: "status" });
  return [h("div", { class: "fields" }, field(t("policy_try_text"), text), field(t("policy_try_origin"), origin),
    h("details", { class: "more", open: Boolean(state.hidden) }, h("summary", {}, t("system")), field(t("policy_try_hidden"), hidden))), view.verdicts];
}

function verdict(side, { action, text, findings }) {
  const lines = findings.map((one) => h("li", {}, h("b", {}, one.rule), ` ${t(`action_${one.action}`)}`, one.reason ? h("small", {}, ` ${one.reason}`) : null));
  return h("section", { class: `verdict ${action}`, dataset: { side } },
    h("h3", {}, t(`policy_${side}`), " ", badge(t(`action_${action}`), { allow: "ready", flag: "", redact: "", block: "broken" }[action] ?? "")),
    h("p", { class: "tried", dir: "auto" }, marked(state.text, findings)),
    findings.length ? h("ul", { class: "findings" }, lines) : null,
    text !== state.text ? [h("small", {}, t(side === "input" ? "policy_model_reads" : "policy_answer_shows")), h("p", { class: "left", dir: "auto" }, text || t("empty"))] : null);
}

// ---- saving ----------------------------------------------------------------------------------------------------------

function diffTable(old, now) {
  const rows = shortened(diff(old, now));
  const signs = { same: " ", gone: "−", new: "+" };
  const line = (row) => row === null
    ? h("tr", { class: "left-out" }, h("td", { colSpan: 4 }, "⋯"))
    : h("tr", { class: row.kind }, h("td", { class: "n" }, String(row.before ?? "")), h("td", { class: "n" }, String(row.after ?? "")), h("td", {}, h("span", { "aria-label": t(`diff_${row.kind}`), role: "img" }, signs[row.kind])), h("td", {}, row.text));
  const drawn = h("table", { class: "diff mono" }, h("caption", { class: "visually-hidden" }, t("policy_diff")), h("tbody", {}, rows.map(line)));
  return h("div", { class: "wide-table", tabIndex: 0, role: "region", "aria-label": t("policy_diff") }, drawn);
}

async function save(view, notice) {
  const text = view.editor.text();
  const yes = await dialog(t("policy_save_title"), (finish) => [
    h("p", {}, t("policy_save_text", { file: view.policy.source })), diffTable(view.policy.text, text),
    h("div", { class: "row" }, button(t("policy_save"), () => finish(true), { class: "primary", id: "really-save" }), button(t("cancel"), () => finish(null)))], { wide: true });
  if (yes) await attempt(() => write(view, text, notice), notice);
}

async function write(view, text, notice) {
  try {
    await put("/admin/policy", { policy: text, hash: view.hash });
  } catch (error) {
    if (error.code === "version_conflict") return conflict(view, notice);
    if (error.code === "invalid_policy") view.editor.tell({ message: error.message, line: error.more?.line ?? null });
    throw error;
  }
  delete state.drafts[whose(view)];
  await view.draw();
  announce(t("policy_saved"));
  view.editor.problem.replaceChildren(icon("check"), t("policy_saved"));
}

// Somebody has changed the file: the draft stays, and is compared with what is there now.
async function conflict(view, notice) {
  const yes = await confirmed(t("policy_conflict"), t("policy_conflict_text"), t("policy_compare"));
  if (!yes) return;
  const mine = view.editor.text();
  const fresh = await get("/admin/policy");
  const there = fresh.on_disk ?? fresh;
  state.drafts[whose(view)] = { text: mine, hash: there.hash };
  await view.draw();
  view.hash = there.hash;
  notice.hidden = true;
  await dialog(t("policy_diff"), (finish) => [diffTable(there.text, mine), h("div", { class: "row" }, button(t("close"), () => finish(null), { class: "primary" }))], { wide: true });
}

// ---- what is in force ------------------------------------------------------------------------------------------------

const rules = ({ rules: list }) => table(t("policy_in_force"), [
  { label: t("name"), of: (rule) => [h("b", {}, rule.name), rule.kind === rule.name ? null : h("small", {}, ` ${rule.kind}`)] },
  { label: t("rule_action"), of: (rule) => t(`action_${rule.action}`) },
  { label: t("rule_on"), of: (rule) => rule.on.map((side) => t(`policy_${side}`)).join(", ") },
  { label: t("rule_fail"), of: (rule) => t(`fail_${rule.fail}`) },
  { label: t("rule_tell"), of: (rule) => t(rule.tell ? "yes" : "no") },
  { label: t("of"), of: (rule) => t(rule.own ? "rule_own" : "rule_house") },
], list, t("policy_off_rules"));
