// What the service is doing now: /admin/status, asked every few seconds while this view is shown.
import { errorText, get } from "/lib/api.js";
import { lineChart } from "/lib/charts.js";
import { h } from "/lib/dom.js";
import { inUnit, number, t, when } from "/lib/i18n.js";
import { has } from "/lib/state.js";
import { badge, noticeBox, page, section, table, tile } from "/views/parts.js";

const EVERY = 3000; // milliseconds

export async function open() {
  const holder = h("div", { class: "live" });
  const notice = noticeBox();
  const state = h("span", { class: "state" });
  const report = async () => ({ ...(await get("/admin/status")), cost: await costToday() });
  draw(holder, state, await report());
  const timer = setInterval(async () => {
    if (document.hidden) return;
    try {
      draw(holder, state, await report());
      notice.hidden = true;
    } catch (error) {
      notice.hidden = false;
      notice.textContent = errorText(error);
    }
  }, EVERY);
  return { ...page("dashboard", [state], notice, holder), leave: () => clearInterval(timer) };
}

// What today's requests cost by the price list; undefined where nobody keeps accounts.
async function costToday() {
  if (!has("all_usage")) return undefined;
  const today = new Date().toISOString().slice(0, 10);
  return (await get(`/admin/usage?${new URLSearchParams({ from: today, to: today })}`)).total.cost ?? 0;
}

function draw(holder, state, report) {
  const memory = report.process?.rss_bytes ? ` · ${number(report.process.rss_bytes / 2 ** 20)} MiB` : "";
  state.replaceChildren(h("small", {}, `${t("uptime")} ${span(report.uptime_seconds)}${memory}`), badge(t(`state_${report.state}`), report.state));
  holder.replaceChildren(h("dl", { class: "tiles" }, tiles(report)), h("div", { class: "charts" }, charts(report.series)), latency(report.latency), models(report.models), failures(report.errors));
}

function tiles({ requests, rates, totals, latency, cost }) {
  const minute = rates["1m"] ?? {};
  const hit = totals.prompt_tokens ? totals.cached_tokens / totals.prompt_tokens : null;
  return [
    tile(t("running"), number(requests.running), t("waiting_n", { n: number(requests.waiting) })),
    tile(t("throughput"), `${number(minute.completion_tokens, 1)} /s`, t("requests_per_minute_n", { n: number((minute.requests ?? 0) * 60, 1) })),
    tile(t("first_token"), seconds(latency["1m"]?.first_token?.p50), `p95 ${seconds(latency["1m"]?.first_token?.p95)}`),
    tile(t("cache_hits"), hit === null ? "–" : `${number(100 * hit)} %`, t("of_prompt_tokens")),
    ...(cost === undefined ? [] : [tile(t("cost"), number(cost, 4), t("today"))]),
    tile(t("errors"), number(totals.errors), t("refused_n", { n: number(totals.refused) })),
  ];
}

function charts(series) {
  const step = series.step_seconds || 5;
  const rate = (values) => values.map((value) => value / step);
  const options = { length: 180 };
  const milli = (values) => values.map((value) => (value === null ? null : value * 1000));
  return [
    lineChart(t("tokens_per_second"), [{ name: t("written"), values: rate(series.completion_tokens) }, { name: t("read"), values: rate(series.prompt_tokens) }], options),
    lineChart(t("first_token"), [{ name: "p50", values: milli(series.first_token_p50) }, { name: "p95", values: milli(series.first_token_p95) }], { ...options, unit: " ms", digits: 0 }),
    lineChart(t("requests"), [{ name: t("running"), values: series.running }, { name: t("waiting"), values: series.waiting }], { ...options, digits: 0 }),
    lineChart(t("cache_used"), [{ name: t("used"), values: series.cache_used_share.map((value) => (value === null ? null : 100 * value)) }], { ...options, unit: " %", digits: 0 }),
  ];
}

function latency(windows) {
  const rows = ["queue", "first_token", "per_token", "total"].map((name) => ({ name, ...(windows["5m"]?.[name] ?? {}) }));
  const column = (share) => ({ label: share, right: true, of: (row) => seconds(row[share]) });
  return section(t("latency_5m"), table(t("latency_5m"), [{ label: t("measure"), of: (row) => t(`measure_${row.name}`) }, column("p50"), column("p95"), column("p99")], rows));
}

function models(list) {
  const share = (value) => (value === null || value === undefined ? null : `${number(100 * value)} %`);
  return section(t("view_models"), table(t("view_models"), [
    { label: t("name"), of: (row) => row.name },
    { label: t("state"), of: (row) => badge(t(`state_${row.state}`), row.state) },
    { label: t("running"), right: true, of: (row) => number(row.running) },
    { label: t("waiting"), right: true, of: (row) => number(row.waiting) },
    { label: t("cache_used"), right: true, of: (row) => (row.cache?.blocks ? share(row.cache.used / row.cache.blocks) : null) },
    { label: t("cache_hits"), right: true, of: (row) => share(row.cache?.hit_share) },
    { label: t("guessed"), right: true, of: (row) => (row.speculation?.drafted ? share(row.speculation.accepted / row.speculation.drafted) : null) },
  ], list));
}

function failures(list) {
  return section(t("errors"), table(t("errors"), [
    { label: t("time"), of: (row) => when(row.time) },
    { label: t("route"), of: (row) => row.route },
    { label: t("model"), of: (row) => row.model },
    { label: t("what"), of: (row) => `${row.status ?? ""} ${row.what}` },
  ], list, t("no_errors")));
}

const seconds = (value) => (value === null || value === undefined ? "–" : value < 1 ? `${number(1000 * value)} ms` : `${number(value, 2)} s`);

function span(value) {
  if (value < 3600) return inUnit(value / 60, "minute");
  return value < 172800 ? inUnit(value / 3600, "hour") : inUnit(value / 86400, "day");
}
