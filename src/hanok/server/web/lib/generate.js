// One answer of a model, streamed into a message as it comes.
import { ApiError, events } from "/lib/api.js";
import { prefs, sampling } from "/lib/state.js";

const ALTERNATIVES = 5;

export function bodyOf({ model, messages, settings = prefs, tools = null, tokens = false, store = true, stores = [] }) {
  return {
    model, messages, stream: true, stream_options: { include_usage: true }, ...sampling(settings, model),
    ...(tools?.length ? { tools } : {}),
    ...(stores.length ? { documents: { vector_store_ids: stores } } : {}),
    ...(tokens ? { logprobs: true, top_logprobs: ALTERNATIVES, show_decoding: true } : {}),
    ...(store ? {} : { store: false }),
  };
}

// Fills `message`; calls onchange after each piece. Never throws: what went wrong stands in `message.error`.
export async function generate(body, message, { signal, onchange = () => {} } = {}) {
  const started = performance.now();
  message.model = body.model;
  try {
    for await (const event of events("/v1/chat/completions", body, signal)) {
      message.request_id = event.id ?? message.request_id;
      if (event.usage) message.usage = event.usage;
      if (event.documents) message.grounded = event.documents;
      if (event.guard) message.guard = event.guard.findings;
      if (event.choices?.[0]) take(message, event.choices[0]);
      message.first ??= message.content || message.reasoning ? performance.now() - started : undefined;
      onchange(message);
    }
    if (!message.end) throw new ApiError("", { offline: true });
  } catch (error) {
    if (error.name === "AbortError") message.end = "stopped";
    else message.error = { message: error.message, code: error.code, offline: error.offline || error instanceof TypeError, request: error.request, guard: error.more?.guard?.findings };
  }
  if (message.end === "content_filter") message.appeal_id = message.request_id;
  if (message.end === "stopped" || body.store === false) delete message.request_id; // the server keeps finished answers alone
  message.seconds = (performance.now() - started) / 1000;
  return message;
}

function take(message, choice) {
  const { delta } = choice;
  message.content += delta.content ?? "";
  const thought = delta.reasoning_content ?? delta.reasoning;
  if (thought) message.reasoning = (message.reasoning ?? "") + thought;
  for (const call of delta.tool_calls ?? []) takeCall(message, call);
  if (delta.annotations?.length) message.citations = delta.annotations.filter((one) => one.type === "file_citation").map(citation);
  if (choice.logprobs?.content?.length || choice.decoding?.length) takeTokens(message, choice);
  message.end = choice.finish_reason ?? message.end;
}

function takeCall(message, { index, id, function: called, approval }) {
  message.tool_calls ??= [];
  const call = (message.tool_calls[index] ??= { id: "", name: "", arguments: "" });
  call.id ||= id ?? "";
  call.name += called?.name ?? "";
  call.arguments += called?.arguments ?? "";
  if (approval) call.approval = approval;
}

function takeTokens(message, { logprobs, decoding }) {
  message.tokens ??= [];
  for (const [place, one] of (logprobs?.content ?? []).entries()) {
    const law = decoding?.[place];
    message.tokens.push({ ...one, temperature: law?.temperature, top_p: law?.top_p });
  }
}

const citation = ({ file_id, filename, number, passage, text }) => ({ file_id, filename, number, passage, text });
