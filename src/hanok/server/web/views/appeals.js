// One's own feedback and refused questions that people have looked at, and appeals against what they decided.
import { get, post } from "/lib/api.js";
import { announce, button, h } from "/lib/dom.js";
import { t, when } from "/lib/i18n.js";
import { reasonFor, stateOf } from "/views/reviews.js";
import { attempt, noticeBox, page, table } from "/views/parts.js";

export async function open() {
  const notice = noticeBox();
  const holder = h("div");
  const draw = async () => holder.replaceChildren(list((await get("/v1/appeals")).data, notice, draw));
  await draw();
  return page("appeals", [], h("p", { class: "soft lead" }, t("appeals_text")), notice, holder);
}

function list(items, notice, draw) {
  const appeal = async (item) => {
    const statement = await reasonFor(t("appeal"), t("appeal_text"));
    if (!statement) return;
    await attempt(async () => {
      await post("/v1/appeals", { item: item.item, statement });
      announce(t("appealed"));
      await draw();
    }, notice);
  };
  const said = (item) => [...item.decisions.map((one) => [one.created, t(`verdict_${item.kind}_${one.verdict}`), one.reason]), ...item.appeals.map((one) => [one.created, t("appeal"), one.statement])]
    .sort(([one], [other]) => one - other)
    .map(([time, who, words]) => h("p", { dir: "auto" }, h("small", {}, when(time)), " ", h("b", {}, who), ` ${words}`));
  return table(t("view_appeals"), [
    { label: t("what"), of: (item) => item.title || item.request_id },
    { label: t("kind"), of: (item) => t(`review_kind_${item.kind}`) },
    { label: t("state"), of: stateOf },
    { label: t("decisions"), of: (item) => (item.decisions.length + item.appeals.length ? h("div", {}, said(item)) : null) },
    { label: t("since_when"), of: (item) => when(item.created) },
    { label: t("manage"), hidden: true, right: true, of: (item) => (item.may_appeal ? button(t("appeal"), () => appeal(item), { class: "plain appeal", "aria-label": `${t("appeal")}: ${item.title || item.request_id}` }) : "") },
  ], items, t("appeals_none"));
}
