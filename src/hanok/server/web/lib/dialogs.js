// Questions that wait for an answer: one <dialog> at a time, closed by Esc, the focus back where it was.
import { button, h } from "/lib/dom.js";
import { t } from "/lib/i18n.js";

// Resolves with what `finish` was called with; null if the dialog was left.
export function dialog(title, build, { wide = false } = {}) {
  return new Promise((resolve) => {
    const before = document.activeElement;
    const heading = h("h2", { id: "dialog-title" }, title);
    const box = h("dialog", { "aria-labelledby": "dialog-title", class: wide ? "wide" : "" }, heading);
    let result = null;
    const finish = (value) => {
      result = value;
      box.close();
    };
    box.append(...[build(finish)].flat());
    box.addEventListener("close", () => {
      box.remove();
      before?.focus?.();
      resolve(result);
    });
    box.addEventListener("click", (event) => event.target === box && finish(null));
    document.body.append(box);
    box.showModal();
  });
}

const row = (...buttons) => h("div", { class: "row" }, buttons);

export async function confirmed(title, text, yes, { danger = false } = {}) {
  return dialog(title, (finish) => [
    h("p", {}, text),
    row(button(yes, () => finish(true), { class: danger ? "danger" : "primary" }), button(t("cancel"), () => finish(null))),
  ]);
}

export async function asked(title, label, value = "") {
  return dialog(title, (finish) => {
    const input = h("input", { value, maxLength: 200, required: true, "aria-label": label });
    const submit = (event) => {
      event.preventDefault();
      finish(input.value.trim() || null);
    };
    return h("form", { onsubmit: submit }, input, row(h("button", { type: "submit", class: "primary" }, t("save")), button(t("cancel"), () => finish(null))));
  });
}

export async function told(title, ...parts) {
  return dialog(title, (finish) => [...parts, row(button(t("close"), () => finish(true), { class: "primary" }))]);
}

// A model's link leads away from this machine, so the whole address is shown first.
export async function askToOpen(address) {
  const text = [h("p", {}, t("open_text")), h("p", { class: "address" }, address)];
  const yes = await dialog(t("open_title"), (finish) => [
    ...text,
    row(button(t("open"), () => finish(true), { class: "primary" }), button(t("cancel"), () => finish(null))),
  ]);
  if (yes) window.open(address, "_blank", "noopener,noreferrer");
}
