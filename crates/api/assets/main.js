// The frame around the pages: which address shows what, who is logged in, how new things are.

import { BASE, get, here, on, request } from "./api.js";
import { h, icon, show } from "./dom.js";
import { tick } from "./format.js";
import { status, stop as stopStream } from "./live.js";
import { login, once, refused } from "./login.js";
import { hide } from "./plot.js";
import { isOfServer, nameOf, pages } from "./nav.js";
import { openSearch } from "./search.js";
import { notice, select } from "./ui.js";
import alerts from "./alerts.js";
import audit from "./audit.js";
import connections from "./connections.js";
import coverage from "./coverage.js";
import failures from "./failures.js";
import job from "./job.js";
import jobs from "./jobs.js";
import keys from "./keys.js";
import overview from "./overview.js";
import queues from "./queues.js";
import rebuilds from "./rebuilds.js";
import sources from "./sources.js";
import task from "./task.js";
import tasks from "./tasks.js";
import workers from "./workers.js";

const PAGES = { "": overview, jobs, tasks, task, failures, workers, queues, alerts, coverage, connections, sources, keys, audit, rebuilds };
// What stays the same from page to page.
const KEPT = ["timeRange", "connectionId"];
const STREAM = {
  live: ["Live", "What happens is shown as it happens."],
  sampled: ["Sampled", "So much happens that it is shown every second."],
  paused: ["Paused", "Nothing is asked for while this tab is hidden."],
  away: ["Connecting", "The server does not answer; it is asked again."],
};

// Before a server that did not answer is asked again who looks.
const AGAIN = 2000;

const root = document.getElementById("app");
const state = { page: null, stream: "away", stale: null, connections: [], session: null, loggedIn: true };

/** What pages may use of the frame. */
const app = {
  go, setParams, link, redraw,
  get params() { return new URLSearchParams(location.search); },
  title(text) { document.title = `${text} · Forebay`; },
  connections: () => state.connections,
  // A reader sees all and changes nothing; the server refuses it, too. Until it is known who looks, nobody is an admin.
  isAdmin: () => state.session?.role === "admin",
  /** Who looks, once that is known. */
  session: () => state.asked,
  connectionName: (id) => state.connections.find((one) => one.id === id)?.name ?? id.slice(0, 8),
  reloadConnections,
};

function parts() {
  const [, first = "", rest = ""] = here().match(/^\/([^/]*)\/?(.*)$/) ?? [];
  let id = rest;
  try {
    id = decodeURIComponent(rest);
  } catch {
    // Not an id of anybody's then; the page says so.
  }
  return { first, id };
}

/** The address of a page with what is kept from page to page, and these parameters. */
function link(path, params = {}) {
  const set = new URLSearchParams();
  for (const name of KEPT) if (app.params.get(name)) set.set(name, app.params.get(name));
  for (const [name, value] of Object.entries(params)) value === null || value === "" || value === undefined ? set.delete(name) : set.set(name, value);
  const query = set.toString();
  return `${BASE}${path}${query ? `?${query}` : ""}`;
}

function go(address, { replace = false } = {}) {
  if (address === location.pathname + location.search) return route();
  history[replace ? "replaceState" : "pushState"](null, "", address);
  return route();
}

/** Changes parameters of the address, and leaves the page where it is. */
function setParams(changes, { replace = false } = {}) {
  const set = app.params;
  for (const [name, value] of Object.entries(changes)) value === null || value === undefined || value === "" ? set.delete(name) : set.set(name, value);
  const query = set.toString();
  go(location.pathname + (query ? `?${query}` : ""), { replace });
}

function route() {
  const { first, id } = parts();
  const page = first === "jobs" && id ? job : PAGES[first] ?? overview;
  const identity = page === job ? `job ${id}` : page === task ? `task ${app.params.get("name")}` : first;
  if (state.identity === identity && state.page?.changed) {
    state.page.changed();
    redraw();
    return;
  }
  leave();
  state.identity = identity;
  app.title(nameOf(`/${first}`) ?? "Overview");
  redraw();
  // On a small screen the pages are a line to scroll.
  root.querySelector(".side nav [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
  const main = document.getElementById("main");
  main.replaceChildren();
  main.className = "";
  main.setAttribute("aria-busy", "true");
  scrollTo(0, 0);
  state.page = page(main, app, id);
}

function leave() {
  state.page?.stop();
  state.page = null;
  state.identity = null;
  stopStream();
  hide();
}

function redraw() {
  if (state.loggedIn) show(root, shell());
}

function shell() {
  const { first } = parts();
  const active = first === "task" ? "tasks" : first;
  const [word, about] = STREAM[state.stream];
  const all = pages(app.isAdmin());
  const { name, role } = state.session ?? {};
  const pick = state.connections.length > 1 && !isOfServer(`/${first}`) && !parts().id
    ? select("Connection", [["", "All connections"], ...state.connections.map(({ id, name }) => [id, name])],
        app.params.get("connectionId") ?? "", (value) => setParams({ connectionId: value, cursor: null }), { hidden: true })
    : null;
  return [
    h("a", { class: "skip", href: "#main", key: "skip" }, "Skip to content"),
    h("header", { class: "side", key: "side" },
      h("a", { class: "brand", href: link("/") }, h("span", { class: "logo", "aria-hidden": "true" }, icon("jobs")), "Forebay"),
      h("nav", { "aria-label": "Pages" }, all.map((page, index) =>
        h("a", { href: link(page.path), key: page.path, class: page.isSetUp && !all[index - 1].isSetUp ? "next" : undefined, "aria-current": `/${active}` === page.path ? "page" : undefined },
          icon(page.icon), h("span", {}, page.name)))),
      h("div", { class: "foot" },
        h("span", { class: `stream ${state.stream}`, title: about, role: "status" }, h("span", { class: "dot" }), word),
        name && name !== "admin" ? h("span", { class: "muted cut", title: `${name}, ${role}` }, name) : null,
        h("button", { type: "button", class: "quiet", title: "Log out", "aria-label": "Log out", on: { click: logOut } }, icon("out")))),
    h("div", { class: "body", key: "body" },
      h("div", { class: "top", role: "search", key: "top" },
        h("button", { type: "button", class: "find", on: { click: () => openSearch(app) }, "aria-label": "Find a job by its id, a task or a page", "aria-keyshortcuts": "Control+K" },
          icon("search"), h("span", { class: "grow" }, "Find a job by its id, or a task"), h("kbd", {}, "Ctrl K")), pick),
      state.stale ? notice("warn", h("b", {}, "What you see is out of date. "), staleness(state.stale)) : null,
      h("main", { id: "main", tabindex: "-1", key: "main", keep: true })),
    h("div", { id: "said", role: "status", "aria-live": "polite", key: "said", keep: true }),
  ];
}

function staleness(reason) {
  return reason === "upgrading"
    ? "It is from the views of another version of Forebay; new ones are being made."
    : `The log is not the one it was read from (${reason}): see Rebuild.`;
}

async function logOut() {
  await request("DELETE", "/api/session").catch(() => {});
  askForPassword();
}

/** Shows the login, and afterwards the page that was asked for. */
async function askForPassword({ expired = false, message = null } = {}) {
  if (!state.loggedIn) return;
  leave();
  remember(false);
  state.loggedIn = false;
  const session = await state.asked ?? await whoLooks();
  Object.assign(state, { session: null, asked: null });
  login(root, { expired, message, oidc: session?.oidc, done: enter });
}

/** Who is logged in; null where the server does not answer. */
async function whoLooks() {
  return get("/api/session").catch(() => null);
}

/** Shows the page that was asked for, to somebody who has logged in, or has done so before. */
function enter() {
  Object.assign(state, { loggedIn: true, entered: true });
  remember(true);
  root.replaceChildren();
  if (parts().first === "login") history.replaceState(null, "", `${BASE}/`);
  // None of these waits for the others.
  state.asked ??= whoLooks();
  state.asked.then(recognise);
  route();
  reloadConnections();
}

/** It is known who looks, or has to be asked again. */
function recognise(session) {
  if (!state.loggedIn) return;
  if (!session) {
    setTimeout(() => state.loggedIn && (state.asked = whoLooks()).then(recognise), AGAIN);
    return;
  }
  if (!session.authenticated) return askForPassword({ expired: state.entered });
  state.session = session;
  if (state.page?.isForAdmins) {
    state.identity = null;
    return route();
  }
  redraw();
  state.page?.draw?.();
}

// Whether somebody was logged in here when this browser last looked: who was need not wait to hear that they still are.
const HERE = `forebay${BASE}`;

function remember(isIn) {
  try {
    isIn ? localStorage.setItem(HERE, "in") : localStorage.removeItem(HERE);
  } catch {
    // A browser that keeps nothing waits.
  }
}

function remembered() {
  try {
    return localStorage.getItem(HERE) === "in";
  } catch {
    return false;
  }
}

async function reloadConnections() {
  try {
    state.connections = (await get("/api/connections")).data;
    redraw();
    state.page?.draw?.();
  } catch {
    // The page itself says what is wrong.
  }
}

function onClick(event) {
  const anchor = event.target.closest?.("a[href]");
  if (!anchor || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey || event.defaultPrevented) return;
  if (anchor.origin !== location.origin || anchor.target || anchor.hasAttribute("download")) return;
  if (anchor.getAttribute("href").startsWith("#")) {
    event.preventDefault();
    document.getElementById(anchor.getAttribute("href").slice(1))?.focus();
    return;
  }
  if (anchor.pathname.startsWith(`${BASE}/api/`)) return;
  event.preventDefault();
  go(anchor.pathname + anchor.search);
}

function onKey(event) {
  if (!state.loggedIn) return;
  const isField = /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName) || event.target.isContentEditable;
  if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k") {
    event.preventDefault();
    openSearch(app);
  } else if (!isField && !event.ctrlKey && !event.metaKey && !event.altKey && !document.querySelector("dialog[open]")) {
    state.page?.key?.(event);
  }
}

async function start() {
  document.addEventListener("click", onClick);
  document.addEventListener("keydown", onKey);
  addEventListener("popstate", () => state.loggedIn && route());
  setInterval(() => !document.hidden && tick(), 1000);
  status((now) => {
    if (state.stream === now) return;
    state.stream = now;
    redraw();
  });
  on({
    unauthorized: () => askForPassword({ expired: state.entered }),
    stale: (mark) => {
      if (state.stale === mark) return;
      state.stale = mark;
      redraw();
    },
  });
  const message = refused() ?? await once();
  if (message) return askForPassword({ message });
  if (!remembered()) {
    state.asked = whoLooks();
    const session = await state.asked;
    // A server that does not answer yet is asked again by the page itself.
    if (session && !session.authenticated) return askForPassword();
  }
  enter();
}

start();
