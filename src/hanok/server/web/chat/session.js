// The conversation on the page: asked, answered, stopped, kept. Views listen for changes.
import { ApiError, errorText, get, put } from "/lib/api.js";
import { announce } from "/lib/dom.js";
import { bodyOf, generate } from "/lib/generate.js";
import { t } from "/lib/i18n.js";
import { has, prefs, server } from "/lib/state.js";
import { add, asMessages, emptyTalk, find, forServer, place, storesOf } from "/lib/tree.js";

const KEY = "hanok.talk";
const listeners = new Set();
export const session = { talk: JSON.parse(sessionStorage.getItem(KEY) ?? "null") ?? emptyTalk(prefs.system), running: null, conflict: false };
let saving = Promise.resolve();

// kind: "talk" another one or another branch, "message" one has grown, "busy", "saved", "conflict"
export const listen = (call) => listeners.add(call);
const tell = (kind, message) => listeners.forEach((call) => call(kind, message));

let gone = false;

function remember() {
  if (!gone) sessionStorage.setItem(KEY, JSON.stringify(session.talk));
}

// Before somebody signs out: what is being saved is saved, and nothing is written into the tab behind it.
export async function leave() {
  stop();
  await saving;
  gone = true;
}

export function begin() {
  stop();
  Object.assign(session, { talk: emptyTalk(prefs.system), conflict: false });
  remember();
  tell("talk");
}

export async function open(id) {
  if (session.talk.id === id) return;
  stop();
  const { object, created, updated, ...talk } = await get(`/console/conversations/${encodeURIComponent(id)}`);
  Object.assign(session, { talk: { ...emptyTalk(), ...talk, private: false }, conflict: false });
  remember();
  tell("talk");
}

export const stop = () => session.running?.abort();

// A new question below `parent`; another one beside it where there is one already.
export async function send(text, parent = session.talk.leaf) {
  if (session.running || !text.trim()) return;
  add(session.talk, parent, { role: "user", content: text.trim() });
  await answer(session.talk.leaf);
}

// What a tool returned goes back to the model.
export async function giveResult(call, text) {
  if (session.running) return;
  add(session.talk, session.talk.leaf, { role: "tool", tool_call_id: call.id, content: text });
  const asked = session.talk.messages.findLast((message) => message.tool_calls);
  const given = session.talk.messages.filter((message) => message.role === "tool").map((message) => message.tool_call_id);
  if (asked.tool_calls.every((one) => given.includes(one.id))) await answer(session.talk.leaf);
  else changed("talk");
}

// An answer below `parent`, beside those that are there.
export async function answer(parent) {
  const { talk } = session;
  const messages = asMessages(talk, parent);
  const message = add(talk, parent, { role: "assistant" });
  const running = new AbortController();
  session.running = running;
  tell("busy");
  tell("talk");
  announce(t("thinking"));
  const body = bodyOf({
    model: modelOf(), messages, tools: toolsOf(), tokens: prefs.tokens, store: !talk.private, stores: has("documents") ? storesOf(talk) : [],
  });
  await generate(body, message, { signal: running.signal, onchange: () => tell("message", message) });
  place(talk, message, message.guard ?? message.error?.guard ?? []);
  if (session.running === running) session.running = null;
  if (session.talk !== talk) return; // another conversation was opened meanwhile
  announce(message.error ? errorText(message.error) : t("finished"));
  tell("busy");
  changed("talk");
}

export const modelOf = () => (server.models.some((one) => one.id === prefs.model) ? prefs.model : server.models[0]?.id);

export function toolsOf() {
  try {
    return prefs.tools.trim() ? JSON.parse(prefs.tools) : null;
  } catch {
    return null; // the panel says so where it is written
  }
}

// Something that is worth keeping.
export function changed(kind) {
  remember();
  if (kind) tell(kind);
  if (has("conversations") && !session.talk.private && session.talk.messages.length) saving = saving.then(() => keep(session.talk));
  return saving;
}

async function keep(talk, version = talk.version) {
  if (session.conflict && version !== null) return;
  const body = forServer(talk);
  if (!body.messages.length) return;
  try {
    const kept = await put(`/console/conversations/${talk.id}`, { ...body, ...(version === null ? {} : { version }) });
    Object.assign(talk, { version: kept.version, title: kept.title });
    if (talk === session.talk) {
      session.conflict = false;
      remember();
    }
    tell("saved");
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    session.conflict = error.code === "version_conflict";
    tell(session.conflict ? "conflict" : "unsaved");
    if (!session.conflict) announce(`${t("error_save")} ${error.message}`);
  }
}

// After a conflict: ours over theirs, or theirs instead of ours.
export const keepMine = () => keep(session.talk, null).then(() => tell("talk"));
export async function takeTheirs() {
  const { id } = session.talk;
  session.talk = emptyTalk();
  await open(id);
}

export const parentOf = (message) => find(session.talk, message.parent);
