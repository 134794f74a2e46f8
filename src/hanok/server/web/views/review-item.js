// One item of the review queue: question, answer and correction side by side, what others decided, and one's own decision.
import { get, post, remove } from "/lib/api.js";
import { announce, button, field, h, icon } from "/lib/dom.js";
import { number, t, when } from "/lib/i18n.js";
import { markdown } from "/lib/markdown.js";
import { marked } from "/lib/spans.js";
import { has } from "/lib/state.js";
import { people, stateOf, takeNext } from "/views/reviews.js";
import { attempt, badge, noticeBox, page, section } from "/views/parts.js";

const VERDICTS = ["accept", "correct", "reject"];

export async function openItem(id) {
  const notice = noticeBox();
  const holder = h("div", { class: "review", tabIndex: -1 });
  const view = { id, holder, notice, item: null, verdict: null };
  view.draw = async (item) => {
    view.item = item ?? (await get(`/v1/reviews/${encodeURIComponent(id)}`));
    view.verdict = null;
    holder.replaceChildren(...content(view));
  };
  await view.draw();
  holder.addEventListener("keydown", (event) => keys(event, view));
  const back = h("a", { href: "#/reviews", class: "back" }, icon("left"), t("review_back"));
  const next = has("review") ? button(t("review_next"), () => attempt(takeNext, notice), { class: "plain", icon: "onward", id: "next-review" }) : null;
  return { ...page("reviews", [back, next].filter(Boolean), notice, holder), focus: () => holder.focus({ preventScroll: true }) };
}

// Letters choose while nothing is being written: they work inside of this item alone.
function keys(event, view) {
  if (event.target.closest("textarea, input, select") || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  const verdict = VERDICTS.find((one) => t(`key_${one}`) === event.key.toLowerCase());
  const radio = verdict && view.holder.querySelector(`[name=verdict][value=${verdict}]`);
  if (radio && !radio.disabled) {
    event.preventDefault();
    radio.click();
    view.holder.querySelector(verdict === "correct" ? "[name=correction]" : "[name=reason]").focus();
  }
}

function content(view) {
  const { item } = view;
  return [
    section(item.title || item.id, opinion(item), assignment(view)),
    item.content ? talk(item) : section(t("review_content"), h("p", { class: "soft" }, t(item.kind === "extraction" ? "review_no_prompts" : "review_no_content"))),
    item.findings.length ? section(t("guard_found"), findings(item)) : null,
    item.appeals.length ? section(t("appeals"), h("ul", { class: "said" }, item.appeals.map((one) => h("li", {}, h("small", {}, when(one.created)), h("p", { dir: "auto" }, one.statement))))) : null,
    item.decisions.length ? section(t("decisions"), decisions(item)) : null,
    has("review") ? decisionForm(view) : null,
    h("details", { class: "more" }, h("summary", {}, t("details")), facts(item)),
  ].filter(Boolean);
}

// Whose turn it is, and what the user thought.
function opinion(item) {
  const { rating, reason } = item.content ?? {};
  const up = rating > 0;
  return [
    h("p", { class: "state-line" }, badge(t(`review_kind_${item.kind}`)), h("span", {}, stateOf(item)), h("span", {}, t("people_needed"), ": ", people(item))),
    rating ? h("p", { class: "state-line" }, h("span", {}, t("review_rating"), ": "), icon(up ? "up" : "down"), h("span", {}, t(up ? "up" : "down")), reason ? h("span", { dir: "auto", class: "user-reason" }, `“${reason}”`) : null) : null,
  ];
}

function facts(item) {
  const rows = [[t("tenant"), item.tenant], [t("since_when"), when(item.created, { exact: true })], [t("request_number"), item.request_id ? h("code", {}, item.request_id) : "–"],
    [t("model"), item.model_hash ? h("code", { title: item.model_hash }, item.model_hash.slice(0, 12)) : "–"]];
  if (item.batch) rows.push([t("batch"), item.batch]);
  return h("dl", { class: "facts" }, rows.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}

function assignment(view) {
  const { item } = view;
  if (!has("review") || item.state === "decided") return null;
  const path = `/v1/reviews/${encodeURIComponent(view.id)}/assign`;
  const act = (action) => () => attempt(async () => {
    await action();
    await view.draw();
  }, view.notice);
  if (item.mine) return h("p", { class: "row" }, h("span", {}, t("review_yours", { time: item.lease_ends ? when(item.lease_ends) : "–" })), button(t("review_give_back"), act(() => remove(path)), { class: "plain", id: "give-back" }));
  if (item.assigned_to) return h("p", { class: "soft" }, t("review_held", { name: item.assigned_to }));
  return h("p", { class: "row" }, button(t("review_assign"), act(() => post(path, {})), { class: "plain", id: "assign" }));
}

// ---- what it is about ------------------------------------------------------------------------------------------------

function talk(item) {
  const { messages, correction } = item.content;
  const last = messages.at(-1)?.role === "assistant" ? messages.at(-1) : null;
  const before = last ? messages.slice(0, -1) : messages;
  const asked = h("ol", { class: "asked" }, before.map((message, place) => h("li", { class: message.role }, h("small", {}, t(`role_of_${message.role}`)), h("p", { dir: "auto" }, marked(message.content ?? "", spans(item, "input", `messages.${place}`))))));
  const sides = [
    h("section", { class: "side" }, h("h3", {}, t("review_answer")), h("div", { class: "prose", dir: "auto" }, last ? answerOf(item, last) : h("p", { class: "soft" }, "–"))),
    h("section", { class: "side corrected" }, h("h3", {}, t(item.correction ? "review_decided_correction" : "review_correction")), h("div", { class: "prose", dir: "auto" }, item.correction ?? correction ? markdown(item.correction ?? correction) : h("p", { class: "soft" }, t("review_no_correction")))),
  ];
  return section(t("review_content"), asked, h("div", { class: "sides" }, sides));
}

// Places are those of what was written: where something was taken out of it, they are not those of what is shown.
function spans(item, direction, where) {
  const found = item.findings.filter((one) => one.direction === direction && one.where === where);
  return found.some((one) => one.action === "redact") ? [] : found.filter((one) => one.span);
}

function answerOf(item, message) {
  const found = spans(item, "output", "text");
  const calls = (message.tool_calls ?? []).map((call) => h("pre", { class: "json", tabIndex: 0 }, `${call.function.name} ${call.function.arguments}`));
  return [found.length ? h("p", {}, marked(message.content ?? "", found)) : markdown(message.content ?? ""), ...calls];
}

const findings = (item) => h("ul", { class: "findings" }, item.findings.map((one) => h("li", { class: one.action ?? "" }, h("b", {}, one.rule ?? one.check), one.action ? ` ${t(`action_${one.action}`)}` : "", one.where ? ` · ${one.where}` : "", ` · ${one.reason}`, one.text ? h("code", { dir: "auto" }, one.text) : null)));

function decisions(item) {
  return h("ul", { class: "said" }, item.decisions.map((one) => h("li", {}, h("small", {}, `${one.name || one.reviewer} · ${when(one.created)}${one.round ? ` · ${t("round_n", { n: number(one.round + 1) })}` : ""}`),
    h("p", { dir: "auto" }, h("b", {}, t(`verdict_${item.kind}_${one.verdict}`)), ` ${one.reason}`), one.correction ? h("p", { class: "correction", dir: "auto" }, one.correction) : null)));
}

// ---- one's own decision ----------------------------------------------------------------------------------------------

function decisionForm(view) {
  const { item } = view;
  if (!item.may_decide) return item.why_not ? h("p", { class: "soft", id: "why-not" }, item.why_not) : null;
  const allowed = item.kind === "feedback" ? VERDICTS : ["accept", "reject"];
  const correction = h("textarea", { name: "correction", rows: 4, maxLength: 20000, value: item.content?.correction ?? item.content?.messages.at(-1)?.content ?? "" });
  const box = h("div", { hidden: true }, field(t("review_write"), correction));
  const reason = h("textarea", { name: "reason", rows: 2, maxLength: 2000, required: true });
  const choose = (verdict) => () => {
    view.verdict = verdict;
    box.hidden = verdict !== "correct";
  };
  const choices = allowed.map((verdict) => h("label", {}, h("input", { type: "radio", name: "verdict", value: verdict, required: true, onchange: choose(verdict) }),
    h("span", {}, t(`verdict_${item.kind}_${verdict}`)), " ", h("kbd", {}, t(`key_${verdict}`))));
  const submit = async (event) => {
    event.preventDefault();
    const body = { verdict: view.verdict, reason: reason.value.trim(), ...(view.verdict === "correct" ? { correction: correction.value.trim() } : {}) };
    const decided = await attempt(() => post(`/v1/reviews/${encodeURIComponent(view.id)}/decide`, body), view.notice);
    if (!decided) return;
    await view.draw(decided);
    announce(t("review_saved"));
    document.getElementById("next-review")?.focus();
  };
  const send = (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || event.isComposing) return;
    event.preventDefault();
    event.currentTarget.requestSubmit();
  };
  const two = item.required > 1 ? h("p", { class: "soft" }, t("review_two", { made: number(item.made), required: number(item.required) })) : null;
  return section(t("decision"), h("form", { class: "decision fields", onsubmit: submit, onkeydown: send }, two, h("fieldset", {}, h("legend", {}, t("verdict")), h("div", { class: "verdict-choices" }, choices)), box,
    field(t("review_reason"), reason, t("review_keys")), h("div", { class: "row" }, h("button", { type: "submit", class: "primary", id: "decide" }, t("decide")))));
}
