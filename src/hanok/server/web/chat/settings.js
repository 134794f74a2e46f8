// System prompt with presets, and how to draw: beside the chat, or over it on a telephone.
import { errorText, get, put, remove } from "/lib/api.js";
import { announce, field, h, iconButton } from "/lib/dom.js";
import { asked, confirmed } from "/lib/dialogs.js";
import { t } from "/lib/i18n.js";
import { has, hasHeads, prefs, remember } from "/lib/state.js";
import { newId } from "/lib/tree.js";
import { changed, modelOf, session } from "/chat/session.js";

const MODES = ["precise", "creative", "model", "own"];

export function settingsPanel(onclose) {
  const panel = h("div", { class: "panel" });
  const draw = () => panel.replaceChildren(...[
    h("div", { class: "panel-head" }, h("h2", {}, t("settings")), iconButton("close", t("close"), onclose)),
    has("presets") ? presetRow(draw) : null,
    systemField(),
    modes(draw),
    ...(prefs.mode === "own" ? [slider("temperature", 0, 2), slider("top_p", 0.01, 1)] : []),
    ...(prefs.mode === "model" && hasHeads(modelOf()) ? [slider("temperature_scale", 0.1, 3)] : []),
    numberField("max_tokens", 1),
    numberField("seed"),
    toolsField(),
  ].filter(Boolean));
  draw();
  return panel;
}

function systemField() {
  const area = h("textarea", { rows: 5, value: session.talk.system, maxLength: 100000, id: "system" });
  area.addEventListener("change", () => {
    session.talk.system = area.value;
    remember({ system: area.value });
    changed();
  });
  return field(t("system"), area, t("system_hint"));
}

function modes(draw) {
  const shown = MODES.filter((mode) => mode !== "model" || hasHeads() || prefs.mode === "model");
  const pick = (mode) => () => {
    remember({ mode });
    draw();
    document.querySelector("#settings-button span").textContent = t(`mode_${mode}`);
    document.querySelector(`[name=mode][value=${mode}]`)?.focus();
  };
  const choices = shown.map((mode) =>
    h("label", {}, h("input", { type: "radio", name: "mode", value: mode, checked: prefs.mode === mode, onchange: pick(mode) }), h("span", {}, t(`mode_${mode}`))));
  return h("fieldset", { class: "modes" }, h("legend", {}, t("mode")), h("div", { class: "segments" }, choices), h("small", {}, t(`mode_${prefs.mode}_hint`)));
}

function slider(name, min, max) {
  const range = h("input", { type: "range", min, max, step: 0.01, value: prefs[name] });
  const exact = h("input", { type: "number", min, max, step: 0.01, value: prefs[name], "aria-label": t(name) });
  const take = (from, to) => () => {
    if (!from.checkValidity() || from.value === "") return;
    to.value = from.value;
    remember({ [name]: Number(from.value) });
  };
  range.addEventListener("input", take(range, exact));
  exact.addEventListener("input", take(exact, range));
  const box = field(t(name), range);
  box.append(exact);
  box.classList.add("slider");
  return box;
}

function numberField(name, min = null) {
  const input = h("input", { type: "number", step: 1, min, value: prefs[name] ?? "", placeholder: t(`${name}_none`) });
  input.addEventListener("change", () => input.checkValidity() && remember({ [name]: input.value === "" ? null : Number(input.value) }));
  return field(t(name), input);
}

function toolsField() {
  const area = h("textarea", { rows: 4, value: prefs.tools, spellcheck: false, class: "mono", placeholder: '[{"type": "function", "function": {"name": "hours", "parameters": {…}}}]' });
  const check = () => {
    try {
      const tools = area.value.trim() ? JSON.parse(area.value) : [];
      area.setCustomValidity(Array.isArray(tools) ? "" : t("tools_wrong"));
    } catch {
      area.setCustomValidity(t("tools_wrong"));
    }
    area.setAttribute("aria-invalid", String(!area.validity.valid));
    if (area.validity.valid) remember({ tools: area.value });
    else area.reportValidity();
  };
  area.addEventListener("change", check);
  return h("details", { class: "more", open: Boolean(prefs.tools) }, h("summary", {}, t("tools")), field(t("tools_label"), area, t("tools_hint")));
}

// ---- presets ----------------------------------------------------------------------------------------------------

function presetRow(draw) {
  const select = h("select", { id: "preset" }, h("option", { value: "" }, t("preset_none")));
  const drop = iconButton("trash", t("delete"), () => deletePreset(select, draw), { disabled: !prefs.preset });
  get("/console/presets?limit=200").then(({ data }) => {
    select.append(...data.map((one) => h("option", { value: one.id, selected: one.id === prefs.preset }, one.title)));
  }).catch((error) => announce(errorText(error)));
  select.addEventListener("change", () => usePreset(select.value, draw));
  const keep = iconButton("save", t("preset_save"), () => savePreset(select, draw));
  const box = field(t("preset"), select);
  box.classList.add("with-buttons");
  box.append(keep, drop);
  return box;
}

async function usePreset(id, draw) {
  if (!id) return remember({ preset: "" });
  try {
    const { system, mode, temperature, top_p, temperature_scale, max_tokens, seed } = await get(`/console/presets/${encodeURIComponent(id)}`);
    const drawn = {
      temperature: temperature ?? prefs.temperature, top_p: top_p ?? prefs.top_p, temperature_scale: temperature_scale ?? 1,
      max_tokens: max_tokens ?? null, seed: seed ?? null,
    };
    remember({ preset: id, system, mode, ...drawn });
    session.talk.system = system;
    changed();
    document.querySelector("#settings-button span").textContent = t(`mode_${mode}`);
    draw();
  } catch (error) {
    announce(errorText(error));
  }
}

async function savePreset(select, draw) {
  const chosen = select.selectedOptions[0];
  const title = await asked(t("preset_save"), t("name"), chosen?.value ? chosen.textContent : "");
  if (!title) return;
  const same = [...select.options].find((one) => one.value && one.textContent === title);
  const id = same?.value ?? newId();
  const { mode, temperature, top_p, temperature_scale, max_tokens, seed } = prefs;
  const own = { own: { temperature, top_p }, model: { temperature_scale } }[mode];
  const limits = { ...(max_tokens ? { max_tokens } : {}), ...(seed === null ? {} : { seed }) };
  try {
    await put(`/console/presets/${id}`, { title, system: session.talk.system, mode, ...own, ...limits });
    remember({ preset: id });
    announce(t("saved"));
    draw();
  } catch (error) {
    announce(errorText(error));
  }
}

async function deletePreset(select, draw) {
  const { value, textContent } = select.selectedOptions[0];
  if (!value || !(await confirmed(t("delete"), t("delete_text", { title: textContent }), t("delete"), { danger: true }))) return;
  await remove(`/console/presets/${value}`).catch((error) => announce(errorText(error)));
  remember({ preset: "" });
  draw();
}
