// Limits of keys, people and tenants.
import { field, h } from "/lib/dom.js";
import { number, t } from "/lib/i18n.js";

export const LIMITS = ["requests_per_minute", "prompt_tokens_per_minute", "completion_tokens_per_minute", "concurrency", "daily_budget", "monthly_budget"];

export function limitsField(values = {}) {
  const inputs = LIMITS.map((name) => field(t(`limit_${name}`), h("input", { type: "number", min: 0, step: "any", name, value: values[name] ?? "", placeholder: t("no_limit") })));
  return h("details", { class: "more", open: Object.keys(values).length > 0 }, h("summary", {}, t("limits")), h("div", { class: "two" }, inputs));
}

export const limitsOf = (box) =>
  Object.fromEntries([...box.querySelectorAll("input")].filter((input) => input.value !== "").map((input) => [input.name, Number(input.value)]));

export const limitText = (limits) =>
  Object.entries(limits ?? {}).map(([name, value]) => `${t(`limit_${name}`)} ${number(value, 2)}`).join(" · ") || t("no_limit");
