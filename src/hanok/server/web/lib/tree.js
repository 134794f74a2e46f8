// A conversation is a tree: an edited question or a second answer is a sibling. Pure functions over
// { id, title, version, private, system, messages: [{ id, parent, role, content, ... }], leaf }; parents come first.

export const newId = () => crypto.getRandomValues(new Uint32Array(3)).reduce((text, part) => text + part.toString(36), "");

export const emptyTalk = (system = "") => ({ id: newId(), title: "", version: 0, private: false, system, messages: [], leaf: null, files: [], collections: [], own_store: null });

export const find = (talk, id) => talk.messages.find((message) => message.id === id);

// From the first message to a leaf.
export function path(talk, leaf = talk.leaf) {
  const found = [];
  for (let message = find(talk, leaf); message; message = find(talk, message.parent)) found.unshift(message);
  return found;
}

export function add(talk, parent, fields) {
  const message = { id: newId(), parent, content: "", ...fields };
  talk.messages.push(message);
  talk.leaf = message.id;
  return message;
}

export const siblings = (talk, message) => talk.messages.filter((other) => other.parent === message.parent && other.role === message.role);

// Show another branch: the newest message below it.
export function choose(talk, message) {
  for (let below = message; below; ) {
    talk.leaf = below.id;
    const children = talk.messages.filter((other) => other.parent === below.id);
    below = children.at(-1);
  }
}

// As the model gets it. A corrected answer is what the conversation goes on with; a failed one is left out.
export function asMessages(talk, leaf = talk.leaf) {
  return sent(talk, leaf).map((one) => (one ? plain(one) : { role: "system", content: talk.system.trim() }));
}

// Those messages in the order in which they go out; null for the system prompt.
const sent = (talk, leaf) => [...(talk.system.trim() ? [null] : []), ...path(talk, leaf).filter((one) => !one.error)];

// What the guard found of a question and its answer goes to the messages that it was found in; what it found elsewhere to the
// question. Earlier answers have what was found in them since they were given.
export function place(talk, answer, found) {
  const messages = sent(talk, answer.parent);
  const question = find(talk, answer.parent);
  const lists = new Map([[answer, []], [question, []]]);
  for (const { direction, where, rule, action, reason, span } of found) {
    const number = /^messages\.(\d+)$/.exec(where)?.[1];
    const of = direction === "output" ? answer : (messages[number] ?? question);
    if (of.role === "assistant" && of !== answer) continue;
    const words = direction === "input" && messages[number] === null ? "system" : where;
    lists.set(of, [...(lists.get(of) ?? []), { direction, where: words, rule, action, reason, span: of === question && words !== where ? null : span }]);
  }
  for (const [message, list] of lists) {
    if (list.length) message.found = list;
    else delete message.found;
  }
}

function plain({ role, content, correction, tool_calls, tool_call_id }) {
  const calls = tool_calls?.map(({ id, name, arguments: given }) => ({ id, type: "function", function: { name, arguments: given } }));
  return { role, content: correction ?? content, ...(calls?.length ? { tool_calls: calls } : {}), ...(tool_call_id ? { tool_call_id } : {}) };
}

export function titleOf(talk) {
  const first = talk.messages.find((message) => message.role === "user")?.content ?? "";
  return talk.title || first.replace(/[\u0000-\u001f\u007f\s]+/g, " ").trim().slice(0, 60) || "…";
}

// What the server keeps: neither probabilities of tokens nor failures.
export function forServer(talk) {
  const failed = new Set(talk.messages.filter((message) => message.error).map((message) => message.id));
  const kept = talk.messages.filter((message) => !failed.has(message.id) && !failed.has(message.parent));
  const messages = kept.map(({ tokens, error, rating, grounded, usage, seconds, first, guard, appeal_id, ...rest }) => ({ ...rest, ...(rating ? { rating } : {}) }));
  const leaf = failed.has(talk.leaf) ? find(talk, talk.leaf).parent : talk.leaf;
  return { title: titleOf(talk), system: talk.system, leaf, messages, files: talk.files, collections: talk.collections, ...(talk.own_store ? { own_store: talk.own_store } : {}), ...(talk.model ? { model: talk.model } : {}) };
}

// Collections that a question is answered from.
export const storesOf = (talk) => [...(talk.own_store && talk.files?.length ? [talk.own_store] : []), ...(talk.collections ?? []).map((one) => one.id)];
