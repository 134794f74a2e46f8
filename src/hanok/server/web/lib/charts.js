// Small charts as inline SVG, with their newest value in words for those who do not see them.
import { h, s } from "/lib/dom.js";
import { number } from "/lib/i18n.js";

const WIDTH = 320;
const HEIGHT = 80;

// lines: [{ name, values (null: nothing there) }]
export function lineChart(title, lines, { unit = "", digits = 1, length = 0 } = {}) {
  const most = Math.max(length, 2, ...lines.map(({ values }) => values.length));
  const top = Math.max(...lines.flatMap(({ values }) => values.filter((value) => value !== null)), 0) || 1;
  const x = (place, count) => (WIDTH * (most - count + place)) / (most - 1);
  const y = (value) => HEIGHT - 2 - ((HEIGHT - 6) * value) / top;
  const drawn = lines.map(({ values }, which) => s("path", { d: path(values, x, y), class: `line line-${which}` }));
  const newest = lines.map(({ name, values }, which) => h("span", { class: `key key-${which}` }, `${name} `, h("b", { class: "n" }, show(values.at(-1), digits, unit))));
  const svg = s("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" }, s("path", { d: `M0 ${HEIGHT - 1.5}H${WIDTH}`, class: "axis" }), drawn);
  return h("figure", { class: "chart" },
    h("figcaption", {}, h("span", {}, title), h("small", { class: "n" }, `≤ ${show(top, digits, unit)}`)), svg, h("div", { class: "key-row" }, newest));
}

const show = (value, digits, unit) => (value === null || value === undefined ? "–" : `${number(value, digits)}${unit}`);

function path(values, x, y) {
  let pen = false;
  const dot = (place) => (values[place + 1] ?? null) === null && !pen; // a point by itself
  return values.map((value, place) => {
    if (value === null) {
      pen = false;
      return "";
    }
    const to = `${pen ? "L" : "M"}${x(place, values.length).toFixed(1)} ${y(value).toFixed(1)}${dot(place) ? "h.1" : ""}`;
    pen = true;
    return to;
  }).join("");
}

// bars: [{ label, value }]
export function barChart(title, bars, { unit = "", digits = 0 } = {}) {
  const top = Math.max(...bars.map(({ value }) => value), 0) || 1;
  const width = WIDTH / Math.max(bars.length, 7);
  const drawn = bars.map(({ label, value }, place) => {
    const tall = Math.max(value ? 1 : 0, ((HEIGHT - 6) * value) / top);
    return s("rect", { x: place * width + width * 0.12, y: HEIGHT - 1.5 - tall, width: width * 0.76, height: tall, rx: 1.5, class: "bar-rect" }, s("title", {}, `${label}: ${show(value, digits, unit)}`));
  });
  const total = bars.reduce((sum, { value }) => sum + value, 0);
  const svg = s("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" }, s("path", { d: `M0 ${HEIGHT - 1.5}H${WIDTH}`, class: "axis" }), drawn);
  const ends = h("div", { class: "key-row" }, h("span", {}, bars[0]?.label ?? ""), h("span", { class: "spring" }), h("span", {}, bars.at(-1)?.label ?? ""));
  return h("figure", { class: "chart" }, h("figcaption", {}, h("span", {}, title), h("b", { class: "n" }, show(total, digits, unit))), svg, ends);
}
