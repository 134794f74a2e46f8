// The review queue: what waits for people, whose turn it is, how far they agree. One item: review-item.js.
import { get, post } from "/lib/api.js";
import { announce, button, field, h, iconButton } from "/lib/dom.js";
import { dialog } from "/lib/dialogs.js";
import { number, t, when } from "/lib/i18n.js";
import { has, server } from "/lib/state.js";
import { openItem } from "/views/review-item.js";
import { attempt, badge, noticeBox, page, section, table, tile } from "/views/parts.js";

const STATES = ["open", "assigned", "appealed", "decided"];
export const KINDS = ["feedback", "flag", "poison", "extraction"];
const PAGE = 50;
const state = { state: "waiting", kind: "", mine: false, tenant: "", batch: "" };

export async function open(chosen) {
  if (chosen) return openItem(decodeURIComponent(chosen));
  const notice = noticeBox();
  const holder = h("div", { class: "reviews" });
  const draw = () => attempt(async () => holder.replaceChildren(...(await content(holder, draw, notice))), notice);
  await draw();
  const next = has("review") ? button(t("review_next"), () => attempt(takeNext, notice), { class: "primary", icon: "onward", id: "next-review" }) : null;
  return page("reviews", [next].filter(Boolean), notice, holder);
}

// The next item that I may decide becomes mine.
export async function takeNext() {
  const { item } = await post("/v1/reviews/next", state.kind ? { kind: state.kind } : {});
  if (!item) return announce(t("review_none"));
  const there = `#/reviews/${encodeURIComponent(item.id)}`;
  if (location.hash === there) dispatchEvent(new HashChangeEvent("hashchange"));
  else location.hash = there;
}

function query(more = {}) {
  const found = new URLSearchParams(Object.entries({ kind: state.kind, tenant: state.tenant, batch: state.batch, limit: PAGE, ...more }).filter(([, value]) => value));
  if (state.mine) found.set("mine", "true");
  for (const one of state.state === "waiting" ? ["open", "assigned", "appealed"] : state.state ? [state.state] : []) found.append("state", one);
  return found;
}

async function content(holder, draw, notice) {
  const of = state.tenant ? `?${new URLSearchParams({ tenant: state.tenant })}` : "";
  const [summary, found, agreement] = await Promise.all([get(`/v1/reviews/summary${of}`), get(`/v1/reviews?${query()}`), get(`/v1/reviews/agreement${of}`)]);
  const list = h("div", { id: "queue" }, drawn(found.data));
  if (found.has_more) list.append(more(list, found, notice));
  return [
    h("dl", { class: "tiles" }, [...STATES, "disputed"].map((one) => tile(t(`review_${one}`), number(summary[one])))),
    filters(draw),
    list,
    summary.batches.length ? section(t("batches"), batches(summary.batches, draw, notice)) : null,
    section(t("agreement"), ...agreed(agreement)),
  ].filter(Boolean);
}

function filters(draw) {
  const pick = (name, values, words) => h("select", { name, onchange: (event) => ((state[name] = event.target.value), draw()) }, values.map((one) => h("option", { value: one, selected: one === state[name] }, words(one))));
  const states = pick("state", ["waiting", "", ...STATES], (one) => t(one === "waiting" ? "review_waiting" : one ? `review_${one}` : "all"));
  const kinds = pick("kind", ["", ...KINDS], (one) => t(one ? `review_kind_${one}` : "all"));
  const mine = h("label", { class: "check" }, h("input", { type: "checkbox", name: "mine", checked: state.mine, onchange: (event) => ((state.mine = event.target.checked), draw()) }), t("review_mine"));
  const tenant = server.runsHouse ? h("input", { name: "tenant", value: state.tenant, maxLength: 64, onchange: (event) => ((state.tenant = event.target.value.trim()), draw()) }) : null;
  const batch = state.batch ? h("span", { class: "chip" }, state.batch, iconButton("close", `${t("remove")}: ${state.batch}`, () => ((state.batch = ""), draw()))) : null;
  return h("div", { class: "filters", role: "group", "aria-label": t("review_filters") }, field(t("state"), states), field(t("kind"), kinds), tenant ? field(t("tenant"), tenant) : null, mine, batch);
}

function more(list, found, notice) {
  const load = async () => {
    const next = await attempt(() => get(`/v1/reviews?${query({ after: found.next })}`), notice);
    if (!next) return;
    const body = list.querySelector("tbody");
    const place = body.rows.length;
    body.append(...drawn(next.data).querySelector("tbody").rows);
    list.querySelector(".more-reviews").remove();
    if (next.has_more) list.append(more(list, next, notice));
    body.rows[place]?.querySelector("a")?.focus();
  };
  return button(t("more"), load, { class: "plain more-reviews" });
}

function drawn(items) {
  const queue = table(t("view_reviews"), [
    { label: t("what"), of: (item) => h("a", { href: `#/reviews/${encodeURIComponent(item.id)}` }, item.title || item.id) },
    { label: t("kind"), of: (item) => t(`review_kind_${item.kind}`) },
    { label: t("state"), of: stateOf },
    { label: t("people_needed"), of: people },
    { label: t("assigned_to"), of: (item) => (item.mine ? h("b", {}, t("me")) : item.assigned_to) },
    { label: t("since_when"), of: (item) => when(item.created) },
  ], items, t("review_empty"));
  queue.addEventListener("keydown", move);
  return queue;
}

// Arrows go from one item to the next.
function move(event) {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  const row = event.target.closest("tbody tr");
  if (!step || !row) return;
  event.preventDefault();
  (step > 0 ? row.nextElementSibling : row.previousElementSibling)?.querySelector("a")?.focus();
}

export const stateOf = (item) => [
  badge(t(`review_${item.state}`), { decided: "ready", appealed: "broken" }[item.state] ?? ""),
  item.outcome ? [" ", h("small", {}, t(`outcome_${item.outcome}`))] : null,
];

export const people = (item) => [t("people_n", { made: number(item.made), required: number(item.required) }), item.disputed ? [" ", badge(t("review_disputed"), "broken")] : null];

// ---- batches of a poisoning check, and agreement ----------------------------------------------------------------------

function batches(list, draw, notice) {
  const show = (batch) => {
    state.batch = batch;
    draw();
  };
  const decide = async ({ batch }, verdict) => {
    const reason = await reasonFor(t(`poison_${verdict}`), t(`poison_${verdict}_text`));
    if (!reason) return;
    await attempt(async () => {
      const done = await post(`/v1/reviews/batches/${encodeURIComponent(batch)}/decide`, { verdict, reason });
      announce(t("batch_done", { n: number(done.decided), left: number(done.left) }));
      await draw();
    }, notice);
  };
  return table(t("batches"), [
    { label: t("batch"), of: (one) => button(one.batch, () => show(one.batch), { class: "link" }) },
    { label: t("since_when"), of: (one) => when(one.created) },
    { label: t("review_open"), right: true, of: (one) => number(one.open) },
    { label: t("review_decided"), right: true, of: (one) => number(one.decided) },
    { label: t("manage"), hidden: true, right: true, of: (one) => (one.open && has("review") ? h("span", { class: "buttons" }, button(t("poison_reject"), () => decide(one, "reject"), { class: "quiet" }), button(t("poison_accept"), () => decide(one, "accept"), { class: "quiet" })) : "") },
  ], list);
}

export function reasonFor(title, text, { required = true } = {}) {
  return dialog(title, (finish) => {
    const area = h("textarea", { rows: 3, required, maxLength: 2000, name: "reason" });
    const submit = (event) => {
      event.preventDefault();
      finish(required ? area.value.trim() : { reason: area.value.trim() });
    };
    return h("form", { onsubmit: submit, class: "fields" }, h("p", {}, text), field(t("review_reason"), area),
      h("div", { class: "row" }, h("button", { type: "submit", class: "primary" }, title), button(t("cancel"), () => finish(null))));
  });
}

const share = (value) => (value === null || value === undefined ? "–" : number(value, 2));
const within = ({ low, high }) => (low === null || low === undefined ? "" : `${number(low, 2)} … ${number(high, 2)}`);

function agreed({ items, decisions, alpha, pairs }) {
  const tiles = h("dl", { class: "tiles" }, tile(t("alpha"), share(alpha.value), within(alpha)), tile(t("agreement_items"), number(items), t("agreement_decisions", { n: number(decisions) })));
  const rows = table(t("agreement"), [
    { label: t("reviewers"), of: (pair) => pair.names.join(" · ") },
    { label: t("agreement_items"), right: true, of: (pair) => number(pair.items) },
    { label: t("agreement_observed"), right: true, of: (pair) => (pair.observed === null ? null : `${number(100 * pair.observed)} %`) },
    { label: t("kappa"), right: true, of: (pair) => [share(pair.kappa), " ", h("small", {}, within(pair))] },
  ], pairs, t("agreement_none"));
  return [h("p", { class: "soft" }, t("agreement_text")), tiles, rows];
}
