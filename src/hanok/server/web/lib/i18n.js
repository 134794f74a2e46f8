// The language of the page: the browser's until it is switched.
import { STRINGS } from "/strings.js";

let current = localStorage.getItem("hanok.language") ?? (navigator.language.startsWith("ko") ? "ko" : "en");

export const language = () => current;

export function setLanguage(name) {
  current = name;
  localStorage.setItem("hanok.language", name);
}

export function t(key, values = {}) {
  return Object.entries(values).reduce((text, [name, value]) => text.replace(`{${name}}`, String(value)), STRINGS[current][key]);
}

export const number = (value, digits = 0) =>
  value === null || value === undefined ? "–" : value.toLocaleString(current, { maximumFractionDigits: digits });

export const inUnit = (value, unit) => value.toLocaleString(current, { style: "unit", unit, maximumFractionDigits: 1 });

// `exact`: to the second, whatever day it is.
export function when(seconds, { exact = false } = {}) {
  const date = new Date(seconds * 1000);
  if (exact) return date.toLocaleString(current, { dateStyle: "medium", timeStyle: "medium" });
  const today = date.toDateString() === new Date().toDateString();
  const form = today ? { hour: "2-digit", minute: "2-digit" } : { year: "numeric", month: "short", day: "numeric" };
  return date.toLocaleString(current, form);
}
