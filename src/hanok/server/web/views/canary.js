// A release to some of the traffic first: its share, how it compares with the model that is there, promotion and rollback.
import { get, post, request } from "/lib/api.js";
import { announce, button, field, h } from "/lib/dom.js";
import { dialog } from "/lib/dialogs.js";
import { number, t, when } from "/lib/i18n.js";
import { server } from "/lib/state.js";
import { reasonFor } from "/views/reviews.js";
import { attempt, badge, noticeBox, page, section, table } from "/views/parts.js";

const SHARES = ["liked", "errors", "flagged", "blocked"];
const TIMES = ["milliseconds", "first_token_milliseconds"];
const BETTER = { liked: 1, errors: -1, blocked: -1, milliseconds: -1, first_token_milliseconds: -1 }; // flagged is neither
const EVERY = 5000; // milliseconds

const path = (model) => `/admin/models/${model.split("/").map(encodeURIComponent).join("/")}/canary`;

export async function open() {
  const notice = noticeBox();
  const holder = h("div", { class: "canaries" });
  const view = { notice, holder };
  view.draw = async () => {
    const { data } = await get("/admin/canaries");
    const running = await Promise.all(data.filter((one) => one.state === "running").map((one) => get(path(one.model))));
    const ended = data.filter((one) => one.state !== "running");
    view.running = running;
    holder.replaceChildren(...running.map((one) => card(one, view)), running.length ? "" : h("p", { class: "soft lead" }, t("canary_none")), section(t("canary_before"), history(ended, view)));
  };
  await view.draw();
  const begin = button(t("canary_begin"), () => start(view), { class: "primary", icon: "plus", id: "begin-canary" });
  const timer = setInterval(() => {
    const busy = document.hidden || document.querySelector("dialog[open]") || holder.contains(document.activeElement);
    if (view.running.length && !busy) attempt(view.draw, notice);
  }, EVERY);
  return { ...page("canary", [begin], notice, holder), leave: () => clearInterval(timer) };
}

async function start(view) {
  const body = await dialog(t("canary_begin"), (finish) => {
    const models = server.models.filter((one) => !one.parent);
    const model = h("select", { name: "model" }, models.map((one) => h("option", { value: one.id }, one.id)));
    const directory = h("input", { name: "directory", required: true, maxLength: 4096, class: "mono" });
    const share = h("input", { name: "share", type: "number", min: 0.1, max: 100, step: 0.1, value: 5, required: true });
    const back = h("input", { type: "checkbox", name: "auto_rollback", checked: true });
    const submit = (event) => {
      event.preventDefault();
      finish({ model: model.value, directory: directory.value.trim(), share: Number(share.value) / 100, auto_rollback: back.checked });
    };
    return h("form", { onsubmit: submit, class: "fields" }, h("p", {}, t("canary_text")), field(t("model"), model), field(t("directory"), directory, t("canary_directory_hint")), field(t("canary_share"), share),
      h("label", { class: "check" }, back, t("canary_auto")), h("div", { class: "row" }, h("button", { type: "submit", class: "primary" }, t("canary_begin")), button(t("cancel"), () => finish(null))));
  });
  if (!body) return;
  const { model, ...rest } = body;
  if (await attempt(() => post(path(model), rest), view.notice)) await attempt(view.draw, view.notice);
}

// ---- one that runs ---------------------------------------------------------------------------------------------------

function card(one, view) {
  const act = async (what, title, text) => {
    const given = await reasonFor(title, text, { required: false });
    if (!given) return;
    await attempt(async () => {
      await post(`${path(one.model)}/${what}`, given.reason ? { reason: given.reason } : {});
      announce(t(`canary_${what}_done`));
      await view.draw();
    }, view.notice);
  };
  const set = (body) => attempt(async () => {
    await request(path(one.model), { method: "PATCH", body });
    await view.draw();
  }, view.notice);
  const share = h("input", { type: "number", name: "share", min: 0.1, max: 100, step: 0.1, value: number100(one.share) });
  share.addEventListener("change", () => share.checkValidity() && set({ share: Number(share.value) / 100 }));
  const back = h("input", { type: "checkbox", name: "auto_rollback", checked: one.auto_rollback, onchange: (event) => set({ auto_rollback: event.target.checked }) });
  return section(one.model,
    h("div", { class: "canary-head" }, badge(t("canary_running"), "ready"), sides(one), h("small", {}, t("canary_since", { time: when(one.created, { exact: true }) }))),
    h("div", { class: "filters" }, field(t("canary_share"), share), h("label", { class: "check" }, back, t("canary_auto"))),
    comparison(one.comparison),
    h("div", { class: "row" }, button(t("canary_promote"), () => act("promote", t("canary_promote"), t("canary_promote_text")), { class: "primary", id: "promote" }),
      button(t("canary_rollback"), () => act("rollback", t("canary_rollback"), t("canary_rollback_text")), { class: "danger", id: "rollback" })));
}

const number100 = (share) => Math.round(1000 * share) / 10;
const name = ({ directory, hash }) => [h("b", {}, directory.split("/").filter(Boolean).slice(-2).join("/")), " ", h("code", { title: hash }, hash.slice(0, 12))];
const sides = (one) => h("span", { class: "versions" }, name(one.current), " → ", name(one.canary));

function comparison({ arms, differences }) {
  const rows = [...SHARES, ...TIMES].map((measure) => ({ measure, current: arms.current[measure], canary: arms.canary[measure], difference: differences[measure] }));
  const value = (measure, found, unit = "%") => {
    if (found.value === null) return "–";
    const show = (one) => (SHARES.includes(measure) ? `${number(100 * one, 1)} ${unit}` : `${number(one, Math.abs(one) < 10 ? 1 : 0)} ms`);
    return h("span", {}, show(found.value), " ", h("small", {}, `${show(found.low)} … ${show(found.high)}`));
  };
  const counts = h("p", { class: "soft" }, t("canary_counts", { current: number(arms.current.requests), canary: number(arms.canary.requests), ratings: number(arms.current.ratings + arms.canary.ratings) }));
  return [counts, table(t("canary_comparison"), [
    { label: t("measure"), of: ({ measure }) => t(`canary_${measure}`) },
    { label: t("canary_current"), right: true, of: ({ measure, current }) => value(measure, current) },
    { label: t("canary_new"), right: true, of: ({ measure, canary }) => value(measure, canary) },
    { label: t("canary_difference"), right: true, of: ({ measure, difference }) => value(measure, difference, t("points")) },
    { label: t("canary_word"), of: ({ measure, difference }) => word(measure, difference) },
  ], rows), h("p", { class: "soft" }, t("canary_intervals"))];
}

function word(measure, { value, clear }) {
  if (value === null) return badge(t("canary_nothing_yet"));
  if (!clear) return badge(t("canary_unclear"));
  const better = value * (BETTER[measure] ?? 0);
  return badge(t(better > 0 ? "canary_better" : better < 0 ? "canary_worse" : "canary_different"), better > 0 ? "ready" : better < 0 ? "broken" : "");
}

// ---- those that have ended -------------------------------------------------------------------------------------------

// What was promoted may have been taken out of service since.
const became = (one) => (one.state === "promoted" && one.withdrawn ? "withdrawn" : one.state);
const ending = (one) => (became(one) === "withdrawn" ? one.withdrawn : { time: one.ended, by: one.ended_by, why: one.why });
const history = (list) => table(t("canary_before"), [
  { label: t("model"), of: (one) => h("b", {}, one.model) },
  { label: t("state"), of: (one) => badge(t(`canary_${became(one)}`), became(one) === "promoted" ? "ready" : "broken") },
  { label: t("canary_new"), of: (one) => name(one.canary) },
  { label: t("canary_share"), right: true, of: (one) => `${number(100 * one.share, 1)} %` },
  { label: t("canary_ended"), of: (one) => (ending(one).time ? when(ending(one).time, { exact: true }) : null) },
  { label: t("canary_by"), of: (one) => (ending(one).by === "server" ? t("canary_by_server") : ending(one).by) },
  { label: t("canary_why"), of: (one) => ending(one).why },
], list);
