// What the guard found in a question and in its answer, in words below them; appeals; and a person's word on a call.
import { errorText, post } from "/lib/api.js";
import { announce, button, field, h, icon } from "/lib/dom.js";
import { dialog } from "/lib/dialogs.js";
import { markdown } from "/lib/markdown.js";
import { signsToMarks, withSigns } from "/lib/spans.js";
import { t } from "/lib/i18n.js";
import { has } from "/lib/state.js";
import { changed, giveResult, session } from "/chat/session.js";

// A model's words as elements, with marks where the guard found something in this part of the answer.
export function proseOf(text, message, where, options = {}) {
  const findings = (message.found ?? []).filter((one) => one.where === where && one.span);
  if (!findings.length) return markdown(text, options);
  const [signed, cuts] = withSigns(text, findings);
  return signsToMarks(markdown(signed, options), cuts);
}

// Below a question or an answer: each rule once, with what it did. A blocked answer says how to appeal.
export function verdictList(message) {
  const groups = new Map();
  for (const one of message.found ?? []) {
    if (one.action === "ask") continue; // the call itself says so
    const key = `${one.rule} ${one.action} ${place(one)}`;
    groups.set(key, [...(groups.get(key) ?? []), one]);
  }
  if (!groups.size) return null;
  const items = [...groups.values()].map((list) => h("li", { class: list[0].action }, icon("shield"), h("span", {}, words(list))));
  const blocked = message.end === "content_filter";
  return h("ul", { class: "verdicts", "aria-label": t("guard_found") }, items, blocked ? h("li", { class: "block" }, appeal(message)) : null);
}

const place = ({ direction, where }) => (direction === "output" ? where.replace(/\d+$/, "") : /^messages\.\d+$/.test(where) ? "" : where);

function words(list) {
  const [{ rule, action, direction }] = list;
  const reasons = [...new Set(list.map(({ reason }) => reason).filter(Boolean))].slice(0, 4).join(", ");
  const where = place(list[0]);
  const named = { reasoning: t("reasoning"), "calls.": t("tool"), system: t("system"), tools: t("tools"), documents: t("documents") }[where];
  return [h("b", {}, rule), `: ${t(`found_${direction}_${action}`)}`, named ? ` · ${named}` : "", reasons ? ` · ${reasons}` : "", list.length > 1 ? ` · × ${list.length}` : ""];
}

// In place of the answer to a question that the guard refused.
export function refusal(message) {
  const { error } = message;
  const blocking = (error.guard ?? []).filter(({ action }) => action === "block");
  const joined = (name) => [...new Set(blocking.map((one) => one[name]))].filter(Boolean).join(", ");
  const why = blocking.length ? `${t("blocked_question", { rule: joined("rule") })} ${joined("reason")}` : error.message;
  return [h("p", {}, why), h("div", { class: "row" }, appeal(message))];
}

// ---- appeals ---------------------------------------------------------------------------------------------------------

function appeal(message) {
  const request = message.appeal_id ?? message.request_id ?? message.error?.request;
  if (message.appealed) return h("span", { class: "appealed" }, icon("check"), t("appealed"));
  if (!has("appeals")) return h("span", {}, t("appeal_tell", { id: request ?? "–" }));
  return button(t("appeal"), () => ask(message, request), { class: "plain appeal", icon: "scales" });
}

async function ask(message, request) {
  const note = h("p", { class: "failure", role: "alert", hidden: true });
  const given = await dialog(t("appeal"), (finish) => {
    const area = h("textarea", { rows: 4, required: true, maxLength: 2000, name: "statement" });
    const submit = async (event) => {
      event.preventDefault();
      try {
        finish(await post("/v1/appeals", { request_id: request, statement: area.value.trim() }));
      } catch (error) {
        note.hidden = false;
        note.textContent = errorText(error);
      }
    };
    return h("form", { onsubmit: submit, class: "fields" }, h("p", {}, t("appeal_text")), field(t("appeal_statement"), area), note,
      h("div", { class: "row" }, h("button", { type: "submit", class: "primary" }, t("appeal_send")), button(t("cancel"), () => finish(null))));
  });
  if (!given) return;
  message.appealed = true;
  announce(t("appealed"));
  changed("talk");
}

// ---- calls that a person is asked about ------------------------------------------------------------------------------

// What stands below such a call until somebody has decided; null once the call may go on.
export function approvalOf(message, call) {
  const { approval } = call;
  if (!approval?.required || approval.decision === "approved") return null;
  if (approval.decision === "refused") return h("p", { class: "approval refused" }, icon("close"), t("call_refused"));
  const decide = async (approved, event) => {
    for (const one of event.target.closest(".row").children) one.disabled = true;
    await record(message, call, approved);
    approval.decision = approved ? "approved" : "refused";
    if (approved) changed("talk");
    else await giveResult(call, t("call_refused_words"));
    announce(t(approved ? "call_approved" : "call_refused"));
  };
  return h("div", { class: "approval", role: "group", "aria-label": t("call_ask") },
    h("p", {}, icon("hand"), h("b", {}, t("call_ask")), ` ${approval.rule}: ${approval.reason}`),
    h("div", { class: "row" }, button(t("call_approve"), (event) => decide(true, event), { class: "primary approve" }), button(t("call_refuse"), (event) => decide(false, event), { class: "plain refuse" })));
}

// The audit hears of it where the answer is kept; of a private conversation the server keeps nothing.
async function record(message, call, approved) {
  if (session.talk.private || !message.request_id) return;
  await post("/console/approvals", { request_id: message.request_id, call: call.id, approved }).catch((error) => announce(errorText(error)));
}
