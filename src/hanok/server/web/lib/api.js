// Requests to this server, which are all that the page makes.
import { t } from "/lib/i18n.js";

export class ApiError extends Error {
  // request: the number of the one that failed. more: what the error says beside; of the guard, what it found.
  constructor(message, { code, status, offline = false, request = null, more = {} } = {}) {
    super(message);
    Object.assign(this, { code, status, offline, request, more });
  }
}

let onUnauthorised = () => {};
export const whenUnauthorised = (call) => (onUnauthorised = call);
let csrf = null;
export const setCsrf = (value) => (csrf = value); // of the session: shown with whatever changes something

export async function request(path, { method = "GET", body, signal, quiet = false } = {}) {
  const form = body instanceof FormData;
  const headers = {
    ...(body === undefined || form ? {} : { "Content-Type": "application/json" }),
    ...(csrf && method !== "GET" ? { "x-hanok-csrf": csrf } : {}),
  };
  let response;
  try {
    response = await fetch(path, { method, headers, body: form ? body : body && JSON.stringify(body), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(t("error_offline"), { offline: true });
  }
  if (response.ok) return response;
  const told = await response.json().catch(() => ({}));
  if (response.status === 401 && !quiet) onUnauthorised();
  const { message, code, ...more } = told.error ?? {};
  throw new ApiError(message ?? response.statusText, { code, status: response.status, request: response.headers.get("x-request-id"), more });
}

export const get = async (path) => (await request(path)).json();
export const put = async (path, body) => (await request(path, { method: "PUT", body })).json();
export const post = async (path, body) => (await request(path, { method: "POST", body })).json();
export async function remove(path) {
  const response = await request(path, { method: "DELETE" });
  return response.status === 204 ? null : response.json();
}

// Server-sent events of a streamed answer, each parsed.
export async function* events(path, body, signal) {
  const response = await request(path, { method: "POST", body, signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (held + value).split("\n\n");
    held = parts.pop();
    for (const line of parts.flatMap((part) => part.split("\n"))) {
      if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
      const event = JSON.parse(line.slice(6));
      if (event.error) throw new ApiError(event.error.message, { code: event.error.code, more: event.error });
      yield event;
    }
  }
}

export function errorText(error) {
  if (error.code === "context_length_exceeded") return `${t("error_long")} (${error.message})`;
  return error.offline ? t("error_offline") : `${t("error_other")} ${error.message}`;
}
