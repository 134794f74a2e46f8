// Who used how much: one's own, or everybody's for administrators.
import { get } from "/lib/api.js";
import { barChart } from "/lib/charts.js";
import { h } from "/lib/dom.js";
import { number, t } from "/lib/i18n.js";
import { has } from "/lib/state.js";
import { page, section, table, tile } from "/views/parts.js";

const DAY = 86400000;
const date = (time) => new Date(time).toISOString().slice(0, 10);
const state = { days: 14, by: "key" };

export async function open() {
  const holder = h("div");
  const draw = async () => holder.replaceChildren(...(await content()));
  await draw();
  const days = h("select", { "aria-label": t("period"), onchange: (event) => ((state.days = Number(event.target.value)), draw()) },
    [7, 14, 30, 90].map((one) => h("option", { value: one, selected: one === state.days }, t("days_n", { n: one }))));
  const by = h("select", { "aria-label": t("by"), onchange: (event) => ((state.by = event.target.value), draw()) },
    ["key", "model", "tenant"].map((one) => h("option", { value: one, selected: one === state.by }, t(`by_${one}`))));
  return page("usage", [has("all_usage") ? by : null, days].filter(Boolean), holder);
}

async function content() {
  const base = has("all_usage") ? "/admin/usage" : "/v1/usage";
  const period = { from: date(Date.now() - (state.days - 1) * DAY), to: date(Date.now()) };
  const ask = (by) => get(`${base}?${new URLSearchParams({ ...period, by })}`);
  const by = has("all_usage") ? state.by : "model";
  const [daily, grouped, own] = await Promise.all([ask("day"), ask(by), get("/v1/usage")]);
  const total = grouped.total;
  return [
    h("dl", { class: "tiles" },
      tile(t("requests"), number(total.requests), t("errors_n", { n: number(total.errors) })),
      tile(t("read"), number(total.prompt_tokens), t("cached_n", { n: number(total.cached_tokens) })),
      tile(t("written"), number(total.completion_tokens)),
      tile(t("cost"), number(total.cost, 4))),
    h("div", { class: "charts" }, charts(daily.data)),
    section(t(`by_${by}`), table(t(`by_${by}`), columns(by), grouped.data)),
    own.limits?.length ? section(t("own_limits"), limits(own.limits)) : null,
  ].filter(Boolean);
}

function charts(rows) {
  const known = new Map(rows.map((row) => [row.day, row]));
  const days = Array.from({ length: state.days }, (_, place) => date(Date.now() - (state.days - 1 - place) * DAY));
  const bars = (key) => days.map((day) => ({ label: day.slice(5), value: known.get(day)?.[key] ?? 0 }));
  return [barChart(t("requests"), bars("requests")), barChart(t("read"), bars("prompt_tokens")), barChart(t("written"), bars("completion_tokens")), barChart(t("cost"), bars("cost"), { digits: 4 })];
}

const columns = (by) => [
  { label: t(by), of: (row) => row[by] || "–" },
  ...["requests", "errors", "prompt_tokens", "cached_tokens", "completion_tokens"].map((key) => ({ label: t(`usage_${key}`), right: true, of: (row) => number(row[key]) })),
  { label: t("cost"), right: true, of: (row) => number(row.cost, 4) },
];

const limits = (rows) => table(t("own_limits"), [
  { label: t("of"), of: (row) => t(row.of) },
  { label: t("limits"), of: (row) => t(`limit_${row.limit}`) },
  { label: t("value"), right: true, of: (row) => number(row.value, 2) },
  { label: t("remaining"), right: true, of: (row) => number(row.remaining, 2) },
], rows);
