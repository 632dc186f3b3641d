// The public API. Everything that can go wrong becomes a `Failure`.

export class Failure extends Error {
  constructor(status, message, { code, details, retryAfter } = {}) {
    super(message);
    Object.assign(this, { status, code, details, retryAfter });
  }
}

// The path below which a proxy serves us; nothing where there is none.
export const BASE = document.documentElement.dataset.base ?? "";

/** The path of the page that is shown, without that. */
export function here() {
  const { pathname } = location;
  return BASE && (pathname === BASE || pathname.startsWith(`${BASE}/`)) ? pathname.slice(BASE.length) || "/" : pathname;
}

const heard = { unauthorized: () => {}, stale: () => {} };

/** What to do where nobody is logged in, and with the mark of answers that are out of date. */
export function on(handlers) {
  Object.assign(heard, handlers);
}

export const path = (...parts) => `/api/${parts.map(encodeURIComponent).join("/")}`;

/** A query without what is not set. */
export function query(params) {
  const set = Object.entries(params ?? {}).filter(([, value]) => value !== undefined && value !== null && value !== "");
  return set.length ? `?${new URLSearchParams(set)}` : "";
}

export async function request(method, url, { params, body, signal, quiet } = {}) {
  let response;
  try {
    response = await fetch(BASE + url + query(params), {
      method,
      signal,
      headers: body === undefined ? {} : { "content-type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure(0, "The server does not answer.");
  }
  heard.stale(response.headers.get("forebay-stale"));
  const answer = await response.json().catch(() => null);
  if (response.ok) return answer;
  const { message = `The server answered ${response.status}.`, code, details } = answer?.error ?? {};
  const failure = new Failure(response.status, message, {
    code, details, retryAfter: Number(response.headers.get("retry-after")) || undefined,
  });
  if (response.status === 401 && !quiet) heard.unauthorized();
  throw failure;
}

export const get = (url, params, signal) => request("GET", url, { params, signal });
export const post = (url, body = {}, options = {}) => request("POST", url, { body, ...options });
export const patch = (url, body) => request("PATCH", url, { body });
export const remove = (url) => request("DELETE", url);
