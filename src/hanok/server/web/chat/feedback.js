// Opinions on an answer: thumbs, what it should have been, and why.
import { errorText, post } from "/lib/api.js";
import { announce, h } from "/lib/dom.js";
import { t } from "/lib/i18n.js";

// Resolves with whether it was kept.
export async function rate(message, opinion, note) {
  try {
    await post("/v1/feedback", { request_id: message.request_id, ...opinion });
  } catch (error) {
    note(error.offline ? errorText(error) : `${t("error_feedback")} ${error.message}`);
    return false;
  }
  Object.assign(message, opinion);
  announce(t(opinion.correction ? "corrected" : "thanks"));
  return true;
}

// The form below an answer; `onsave({ correction?, reason? })`.
export function editor(message, { onsave, onclose, focus = "correction" }) {
  const correction = h("textarea", { rows: 3, maxLength: 20000, value: message.correction ?? message.content, name: "correction" });
  const reason = h("input", { maxLength: 2000, value: message.reason ?? "", name: "reason" });
  const submit = (event) => {
    event.preventDefault();
    const text = correction.value.trim();
    const changed = text && text !== message.content.trim();
    onsave({ ...(changed ? { correction: text } : {}), ...(reason.value.trim() ? { reason: reason.value.trim() } : {}) });
  };
  const keys = (event) => {
    if (event.isComposing) return;
    if (event.key === "Escape") {
      event.stopPropagation();
      onclose();
    }
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault(); // a field of one line would submit once more by itself
    form.requestSubmit();
  };
  const form = h(
    "form", { class: "editor", onsubmit: submit, onkeydown: keys },
    h("label", {}, h("span", { class: "label" }, t("correction_label")), correction),
    h("label", {}, h("span", { class: "label" }, t("reason_label")), reason),
    h("div", { class: "row" },
      h("button", { type: "submit", class: "primary" }, t("save")),
      h("button", { type: "button", class: "cancel", onclick: onclose }, t("cancel"))),
  );
  requestAnimationFrame(() => {
    const field = focus === "reason" ? reason : correction;
    field.focus();
    field.select();
    form.scrollIntoView({ block: "nearest" });
  });
  return form;
}
