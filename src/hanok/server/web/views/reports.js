// Reports of the run and of benchmarks, in a frame that runs nothing.
import { get } from "/lib/api.js";
import { h } from "/lib/dom.js";
import { t, when } from "/lib/i18n.js";
import { page } from "/views/parts.js";

export async function open(chosen) {
  const { data, run } = await get("/console/reports");
  const current = decodeURIComponent(chosen ?? "") || data[0]?.path;
  const frame = h("iframe", { title: t("report"), class: "report" });
  frame.setAttribute("sandbox", "");
  if (current) frame.src = `/console/reports/${current.split("/").map(encodeURIComponent).join("/")}`;
  const groups = [["run", run], ["bench", t("benchmarks")]].map(([of, name]) => group(name, data.filter((one) => one.of === of), current));
  const { bar } = page("reports", []);
  return { bar, body: h("div", { class: "reports" }, h("nav", { "aria-label": t("view_reports") }, data.length ? groups : h("p", { class: "soft" }, t("nothing"))), current ? frame : null) };
}

function group(name, reports, current) {
  if (!reports.length) return null;
  const link = (one) => h("a", { href: `#/reports/${encodeURIComponent(one.path)}`, ...(one.path === current ? { "aria-current": "page" } : {}) },
    h("span", {}, one.step === "." ? one.title : one.step), h("small", {}, when(one.modified)));
  return [h("h2", {}, name), h("ul", {}, reports.map((one) => h("li", {}, link(one))))];
}
