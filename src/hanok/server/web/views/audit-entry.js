// One entry of the audit: what it says, the proof that it is in the log, and its sealed content for those who may open it.
import { get } from "/lib/api.js";
import { announce, button, download, h, icon } from "/lib/dom.js";
import { confirmed } from "/lib/dialogs.js";
import { number, t, when } from "/lib/i18n.js";
import { canCheck, holds } from "/lib/merkle.js";
import { server } from "/lib/state.js";
import { attempt, badge, noticeBox, page, section } from "/views/parts.js";

export async function openEntry(sequence) {
  const notice = noticeBox();
  const entry = await get(`/v1/audit/${sequence}`);
  const proof = h("div", { id: "proof" });
  const content = h("div", { id: "content" });
  const prove = button(t("audit_prove"), () => attempt(() => showProof(entry, proof), notice), { class: "plain", id: "prove" });
  const back = h("a", { href: "#/audit", class: "back" }, icon("left"), t("audit_back"));
  return page("audit", [back], notice,
    section(`${t("entry")} ${number(sequence)}`, facts(entry)),
    section(t("details"), text(entry.facts)),
    section(t("sealed_content"), ...sealed(entry, content, notice)),
    section(t("audit_proof"), h("p", { class: "soft" }, t("audit_proof_text")), prove, proof),
    h("nav", { class: "row", "aria-label": t("entries") }, sequence ? button(t("before"), () => go(sequence - 1), { class: "plain", icon: "left" }) : null, button(t("after"), () => go(sequence + 1), { class: "plain", icon: "right" })));
}

const go = (sequence) => (location.hash = `#/audit/${sequence}`);

function facts(entry) {
  const rows = [
    [t("time"), when(entry.time, { exact: true })], [t("kind"), h("code", {}, entry.kind)], [t("actor"), entry.actor || t("nobody")], [t("tenant"), entry.tenant],
    [t("of"), entry.target || "–"], [t("request_number"), entry.request ? h("code", {}, entry.request) : "–"], [t("audit_previous"), h("code", {}, entry.previous)],
  ];
  return h("dl", { class: "facts" }, rows.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}

// Whoever may read the entry may open what is sealed in it; that they did is an entry too.
function sealed(entry, holder, notice) {
  if (!entry.sealed) return [h("p", { class: "soft" }, t("sealed_none"))];
  const show = async () => {
    if (!(await confirmed(t("sealed_open"), t("sealed_open_text"), t("sealed_open")))) return;
    const opened = await attempt(() => get(`/v1/audit/${entry.sequence}?content=true`), notice);
    if (!opened) return;
    const gone = opened.content === null || opened.content === undefined;
    holder.replaceChildren(gone ? h("p", { class: "soft" }, t("sealed_gone")) : h("dl", { class: "opened" }, Object.entries(opened.content).map(([name, value]) => [h("dt", {}, name), h("dd", {}, text(value))])));
    announce(t(gone ? "sealed_gone" : "sealed_opened"));
  };
  const who = server.runsHouse ? t("sealed_who_house") : t("sealed_who", { tenant: server.me?.tenant ?? "" });
  return [h("p", {}, badge(t("sealed")), " ", h("code", {}, entry.sealed.slice(0, 16)), "…"), h("p", { class: "soft" }, who), button(t("sealed_open"), show, { class: "plain", icon: "lock", id: "unseal" }), holder];
}

const text = (value) => h("pre", { class: "json", tabIndex: 0, dir: "auto" }, typeof value === "string" ? value : JSON.stringify(value, null, 2));

async function showProof(entry, holder) {
  const proof = await get(`/v1/audit/${entry.sequence}/proof`);
  const good = canCheck() ? await holds(proof) : null;
  const words = good === null ? t("proof_unchecked") : t(good ? "proof_holds" : "proof_fails", { size: number(Number(proof.checkpoint.split("\n")[1])) });
  const save = button(t("save"), () => download(`proof-${entry.sequence}.json`, `${JSON.stringify(proof, null, 1)}\n`, "application/json"), { class: "plain", icon: "save" });
  const steps = h("details", { class: "more" }, h("summary", {}, t("proof_steps", { n: proof.path.length })), h("pre", { class: "json", tabIndex: 0 }, [...proof.path, "", proof.checkpoint].join("\n")));
  holder.replaceChildren(h("p", { class: `proof ${good === false ? "bad" : "ok"}` }, good === null ? null : icon(good ? "check" : "close"), words), save, h("p", { class: "soft" }, t("proof_command"), " ", h("code", {}, `hanok audit verify --proof proof-${entry.sequence}.json --key verifier.key`)), steps);
  announce(words);
}
