// Who did what: entries with filters, the whole log verified, checkpoints, export. One entry: audit-entry.js.
import { get, request } from "/lib/api.js";
import { announce, button, download, field, h, icon } from "/lib/dom.js";
import { inUnit, number, t, when } from "/lib/i18n.js";
import { dialog } from "/lib/dialogs.js";
import { server } from "/lib/state.js";
import { openEntry } from "/views/audit-entry.js";
import { attempt, badge, noticeBox, page, table } from "/views/parts.js";

const PAGE = 50;
const KINDS = ["request", "verdict", "key", "user", "tenant", "session", "model", "adapter", "policy", "settings", "server", "feedback", "review", "appeal", "canary", "call", "audit"];
const state = { kind: "", tenant: "", actor: "", request_id: "", since: "", until: "" }; // kept while other views are open

export async function open(chosen) {
  if (chosen && /^\d+$/.test(chosen)) return openEntry(Number(chosen));
  const notice = noticeBox();
  const list = h("div", { id: "entries" });
  const verdict = h("div", { id: "verified", role: "status" });
  const draw = () => attempt(async () => list.replaceChildren(...rows(await get(`/v1/audit?${query({ limit: PAGE })}`), list, notice)), notice);
  await draw();
  const check = button(t("audit_verify"), () => verify(check, verdict, notice), { class: "primary", id: "verify", icon: "check" });
  const controls = [button(t("checkpoints"), () => attempt(checkpoints, notice), { class: "plain", icon: "key" }), button(t("export"), () => attempt(exportAll, notice), { class: "plain", icon: "save" }), check];
  return page("audit", controls, verdict, filters(draw), notice, list);
}

// ---- what is shown -------------------------------------------------------------------------------------------------

function query(more = {}) {
  const seconds = (text) => (text ? String(new Date(text).getTime() / 1000) : "");
  const wanted = { ...state, since: seconds(state.since), until: seconds(state.until), ...more };
  return new URLSearchParams(Object.entries(wanted).filter(([, value]) => value !== "" && value !== null));
}

function filters(draw) {
  const kind = h("select", { name: "kind" }, h("option", { value: "" }, t("all")), KINDS.map((one) => h("option", { value: one, selected: one === state.kind }, t(`audit_kind_${one}`))));
  const input = (name, type = "text") => h("input", { name, type, value: state[name], maxLength: 400, autocomplete: "off" });
  const fields = [field(t("kind"), kind), field(t("since"), input("since", "datetime-local")), field(t("until"), input("until", "datetime-local")), field(t("actor"), input("actor")),
    server.runsHouse ? field(t("tenant"), input("tenant")) : null, field(t("request_number"), input("request_id"))];
  const form = h("form", { class: "filters", role: "search", "aria-label": t("audit_filters") }, fields,
    h("div", { class: "row" }, h("button", { type: "submit", class: "plain" }, icon("search"), h("span", {}, t("show"))), button(t("clear"), clear, { class: "quiet" })));
  const take = () => {
    for (const one of form.elements) if (one.name) state[one.name] = one.value.trim();
    draw();
  };
  function clear() {
    form.reset();
    for (const one of form.elements) if (one.name) one.value = "";
    take();
  }
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    take();
  });
  kind.addEventListener("change", take);
  return form;
}

function rows(found, list, notice) {
  const more = async () => {
    const next = await attempt(() => get(`/v1/audit?${query({ limit: PAGE, before: found.next })}`), notice);
    if (!next) return;
    const body = list.querySelector("tbody");
    const place = body.rows.length;
    body.append(...drawn(next.data).querySelector("tbody").rows);
    list.querySelector(".more-entries")?.remove();
    found = next;
    if (next.has_more) list.append(moreButton());
    body.rows[place]?.querySelector("a")?.focus();
  };
  const moreButton = () => button(t("more"), more, { class: "plain more-entries" });
  return [drawn(found.data), found.has_more ? moreButton() : null].filter(Boolean);
}

const drawn = (data) => table(t("view_audit"), [
  { label: t("number"), right: true, of: (row) => h("a", { href: `#/audit/${row.sequence}` }, number(row.sequence)) },
  { label: t("time"), of: (row) => when(row.time, { exact: true }) },
  { label: t("kind"), of: (row) => [h("code", {}, row.kind), row.sealed ? [" ", badge(t("sealed"))] : null] },
  { label: t("actor"), of: (row) => row.actor || t("nobody") },
  { label: t("tenant"), of: (row) => row.tenant },
  { label: t("what"), of: summary },
], data, t("audit_nothing"));

// A few words of an entry; all of it is a click away.
export function summary({ kind, target, facts }) {
  const words = {
    request: () => [`${facts.method} ${facts.route} · ${facts.status}`, ...(facts.work ?? []).map((one) => `${one.model} · ${one.finish}`)],
    verdict: () => [`${facts.rule}: ${t(`action_${facts.action}`)}`, facts.where, facts.reason, facts.count > 1 ? `× ${facts.count}` : ""],
  }[kind]?.() ?? [target, ...Object.entries(facts).filter(([, value]) => ["string", "number", "boolean"].includes(typeof value)).map(([name, value]) => `${name}: ${value}`)];
  return h("span", { class: "summary" }, words.filter(Boolean).join(" · "));
}

// ---- all of it -----------------------------------------------------------------------------------------------------

async function verify(control, verdict, notice) {
  control.disabled = true;
  verdict.replaceChildren(h("p", { class: "checking" }, t("audit_checking")));
  const report = await attempt(() => get("/v1/audit/verify"), notice);
  control.disabled = false;
  verdict.replaceChildren(...(report ? [told_of(report)] : []));
}

function told_of(report) {
  const facts = [[t("entries"), number(report.size)], [t("checkpoints"), number(report.checkpoints)], [t("signed_rows"), number(report.signed)], [t("audit_took"), inUnit(report.seconds, "second")],
    [t("audit_root"), h("code", {}, report.root || "–")]];
  const list = h("dl", { class: "facts" }, facts.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
  if (report.ok) {
    announce(t("audit_ok"));
    return h("section", { class: "verified ok" }, h("h2", {}, icon("check"), t("audit_ok")), h("p", {}, t("audit_ok_text")), list);
  }
  const first = report.first_bad;
  const where = first === null ? null : h("p", {}, t("audit_first_bad"), " ", first < report.size ? h("a", { href: `#/audit/${first}`, class: "first-bad" }, String(first)) : h("b", { class: "first-bad" }, String(first)));
  announce(`${t("audit_bad")} ${first ?? ""}`);
  return h("section", { class: "verified bad" }, h("h2", {}, icon("close"), t("audit_bad")), where, h("p", {}, report.problem), h("p", { class: "soft" }, t("audit_bad_text")), list);
}

async function checkpoints() {
  const [{ data }, { public_key: key }] = await Promise.all([get("/v1/audit/checkpoints?limit=100"), get("/v1/audit/checkpoint")]);
  const save = (one) => download(`checkpoint-${one.size}.txt`, one.note, "text/plain");
  const list = table(t("checkpoints"), [
    { label: t("entries"), right: true, of: (one) => number(one.size) },
    { label: t("time"), of: (one) => (one.time ? when(one.time, { exact: true }) : null) },
    { label: t("signature"), of: (one) => (one.signed ? badge(t("signature_good"), "ready") : badge(t("signature_bad"), "broken")) },
    { label: t("audit_root"), of: (one) => (one.root ? h("code", { title: one.root }, `${one.root.slice(0, 12)}…`) : one.problem) },
    { label: t("manage"), hidden: true, right: true, of: (one) => button(t("save"), () => save(one), { class: "quiet", "aria-label": `${t("save")}: ${one.size}` }) },
  ], data);
  await dialog(t("checkpoints"), (finish) => [h("p", {}, t("checkpoints_text")), h("p", { class: "address", tabIndex: 0 }, key), list, h("div", { class: "row" }, button(t("close"), () => finish(null), { class: "primary" }))], { wide: true });
}

async function exportAll() {
  const text = await (await request(`/v1/audit/export?${query()}`)).text();
  download("audit.jsonl", text, "application/x-ndjson");
  announce(t("exported"));
}
