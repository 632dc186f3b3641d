// The list of jobs: all filters in the address, as many rows as there are, few of them in the document. What arrives
// meanwhile never moves what somebody looks at: it waits above until it is asked for, or until nobody is there.

import { BASE, get, path, query } from "./api.js";
import { h, icon, show } from "./dom.js";
import { ago, count, duration, exact, NONE } from "./format.js";
import { asked, bar, identity, known } from "./filters.js";
import { follow, throttled } from "./live.js";
import { trouble } from "./page.js";
import { badge, copy, ENDED, empty, jobPath } from "./ui.js";

const PAGE = 100;
// Rows above and below what is seen.
const SPARE = 12;
// Rows away from the end at which more are asked for.
const AHEAD = 40;
const SMALL = matchMedia("(max-width: 760px)");
const COLUMNS = [
  ["state", "State", "state"], ["name", "Task", "name"], ["queue", "Queue", "queue"], ["worker", "Worker", "worker"],
  ["created", "Created", "createdAt"], ["took", "Duration", "durationMs"], ["error", "Error", null],
];

// The list as it was when it was left: who comes back finds it so.
let left = null;

export default function jobs(root, app) {
  const list = { rows: [], byId: new Map(), total: null, cursor: null, done: false, error: null, fresh: 0, changed: false };
  const ui = { open: false, offered: { queues: [], workers: [] }, active: null, inside: false, alive: true };
  let key = null;
  let turn = 0;
  let leave = () => {};
  const stale = new Set();

  const rowHeight = () => (SMALL.matches ? 58 : 34);
  const top = h("div", { class: "listing" });
  const head = h("div", { role: "rowgroup", class: "thead" });
  const space = h("div", { class: "space", role: "presentation" });
  const scroller = h("div", {
    class: "scroller", tabindex: "0", role: "rowgroup", "aria-label": "Jobs",
    on: {
      scroll: () => requestAnimationFrame(paint),
      pointerenter: () => { ui.inside = true; },
      pointerleave: () => { ui.inside = false; },
      focusin: (event) => { ui.active = event.target.closest("[data-id]")?.dataset.id ?? null; },
      focusout: (event) => { if (!scroller.contains(event.relatedTarget)) ui.active = null; },
    },
  }, space);
  const table = h("div", { class: "jobs", role: "table", "aria-label": "Jobs" }, head, scroller);
  const foot = h("div", { class: "listfoot" });
  const nothing = h("div", { class: "over" });
  root.className = "fill";
  root.append(top, table, nothing, foot);

  const order = () => ({ by: app.params.get("sortBy") ?? "createdAt", way: app.params.get("sortOrder") ?? "desc" });
  const newestFirst = () => order().by === "createdAt" && order().way === "desc";
  // Whether rows may move: nobody points at one, has chosen one, or has scrolled.
  const isFree = () => !ui.inside && !ui.active && scroller.scrollTop < 4;

  async function begin() {
    key = identity(app.params);
    turn += 1;
    stale.clear();
    leave();
    // What is still under way answers another question, and is not waited for.
    Object.assign(list, { rows: [], byId: new Map(), total: null, cursor: null, done: false, loading: false, error: null, fresh: 0, changed: false });
    ui.active = null;
    const params = app.params;
    // The stream first, so that nothing falls between.
    leave = follow({ types: "job", connectionId: params.get("connectionId"), name: params.get("name"), queue: params.get("queue") }, { happened, again: look });
    if (left?.key === key) {
      Object.assign(list, left.list);
      paint();
      scroller.scrollTop = left.scrollTop;
      left = null;
      return look();
    }
    scroller.scrollTop = 0;
    frame();
    await more();
  }

  /** The next page. */
  async function more() {
    if (list.done || list.loading) return;
    const mine = turn;
    list.loading = true;
    try {
      const page = await get("/api/jobs", { ...asked(app.params), limit: PAGE, cursor: list.cursor });
      if (mine !== turn || !ui.alive) return;
      add(page.data);
      Object.assign(list, { cursor: page.pagination.nextCursor, total: page.pagination.total, done: !page.pagination.nextCursor, error: null });
    } catch (error) {
      if (mine !== turn || !ui.alive) return;
      list.error = error;
      if (error.status === 0 || error.status >= 500) setTimeout(() => mine === turn && more(), (error.retryAfter ?? 2) * 1000);
    } finally {
      if (mine === turn) list.loading = false;
    }
    root.setAttribute("aria-busy", "false");
    paint();
  }

  function add(jobs) {
    for (const job of jobs) {
      if (list.byId.has(job.id)) continue;
      list.byId.set(job.id, job);
      list.rows.push(job);
    }
  }

  /** Looks at the first page again, and at what has changed among the rows that are seen. */
  async function refresh() {
    if (!ui.alive || list.total === null) return;
    const mine = turn;
    try {
      const page = await get("/api/jobs", { ...asked(app.params), limit: PAGE });
      if (mine !== turn || !ui.alive) return;
      const arrived = page.data.filter(({ id }) => !list.byId.has(id));
      const totalBefore = list.total;
      list.total = page.pagination.total;
      if (isFree()) {
        const next = page.pagination.nextCursor;
        Object.assign(list, { rows: [], byId: new Map(), cursor: next, done: !next, fresh: 0, changed: false, error: null });
        add(page.data);
      } else {
        update(page.data);
        if (newestFirst()) list.fresh = arrived.length;
        else if (arrived.length || list.total !== totalBefore) list.changed = true;
        await individually(page.data);
      }
      stale.clear();
      if (mine === turn) paint();
    } catch (error) {
      if (error.status === undefined && error.name !== "AbortError") console.error(error);
    }
  }

  function update(jobs) {
    for (const job of jobs) {
      const mine = list.byId.get(job.id);
      if (mine) Object.assign(mine, job);
    }
  }

  async function individually(seen) {
    const there = new Set(seen.map(({ id }) => id));
    const { first, last } = visible();
    const wanted = list.rows.slice(first, last).filter(({ id }) => stale.has(id) && !there.has(id)).slice(0, 20);
    update(await Promise.all(wanted.map(({ id }) => get(path("jobs", id)).catch(() => ({})))));
  }

  const look = throttled(refresh, 1000);

  function happened(kind, event) {
    const job = list.byId.get(event.id);
    if (job) {
      job.state = event.state;
      job.stateChangedAt = event.timestamp;
      stale.add(event.id);
      requestAnimationFrame(paint);
    }
    look();
  }

  function renew() {
    ui.active = null;
    left = null;
    begin();
  }

  function visible() {
    const height = rowHeight();
    const first = Math.max(0, Math.floor(scroller.scrollTop / height) - SPARE);
    const last = Math.min(list.rows.length, Math.ceil((scroller.scrollTop + scroller.clientHeight) / height) + SPARE);
    return { first, last };
  }

  function paint() {
    if (!ui.alive) return;
    const { first, last } = visible();
    const shown = [];
    for (let index = first; index < last; index += 1) shown.push(index);
    // Who has chosen a row and scrolls on does not lose it.
    const chosen = ui.active ? list.rows.findIndex(({ id }) => id === ui.active) : -1;
    if (chosen >= 0 && (chosen < first || chosen >= last)) shown.push(chosen);
    space.style.setProperty("height", `${list.rows.length * rowHeight()}px`);
    table.setAttribute("aria-rowcount", String((list.total ?? list.rows.length) + 1));
    show(space, shown.map((index) => row(list.rows[index], index)));
    frame();
    if (last > list.rows.length - AHEAD && !list.done && list.total !== null && !list.error) more();
  }

  function row(job, index) {
    const cell = (name, ...content) => h("div", { class: `cell ${name}`, role: "cell" }, content);
    const id = job.externalId;
    return h("div", {
      class: "row", role: "row", key: job.id, "data-id": job.id, "aria-rowindex": index + 2, css: { top: `${index * rowHeight()}px` },
    },
      cell("state", sign(job)),
      cell("name", h("a", { href: jobPath(job.id), class: "main cut" }, job.name), h("span", { class: "id" }, h("span", { class: "mono cut" }, id), copy(id, `Copy the id ${id}`))),
      cell("queue", h("span", { class: "cut", title: job.queue }, job.queue ?? NONE)),
      cell("worker", h("span", { class: "cut", title: job.workerId }, job.workerId ?? NONE)),
      cell("created", ago(job.createdAt)),
      cell("took", took(job)),
      cell("error", h("span", { class: "cut", title: job.error }, job.error ?? "")));
  }

  /** Shows all filters, or hides them. What they offer is asked for by whoever wants to see it: the rows do not need it. */
  function unfold() {
    ui.open = !ui.open;
    if (ui.open) known(app.params.get("connectionId")).then((offered) => { ui.offered = offered; frame(); }, () => {});
    frame();
    paint();
  }

  /** The frame around the rows. */
  function frame() {
    if (!ui.alive) return;
    const { by, way } = order();
    show(top, h("div", { class: "head" }, h("h1", {}, "Jobs"), h("span", { class: "note", "aria-live": "polite" }, list.total === null ? "" : `${exact(list.total)} ${list.total === 1 ? "job" : "jobs"}`), pill()),
      bar(app, ui.offered, { open: ui.open, toggle: unfold }));
    show(head, h("div", { class: "row", role: "row" }, COLUMNS.map(([name, title, sort]) => {
      const isIt = sort === by;
      const sorted = isIt ? (way === "desc" ? "descending" : "ascending") : "none";
      const next = isIt ? (way === "desc" ? "asc" : "desc") : ["createdAt", "durationMs"].includes(sort) ? "desc" : "asc";
      return h("div", { class: `cell ${name}`, role: "columnheader", "aria-sort": sort ? sorted : undefined, key: name },
        sort ? h("button", { type: "button", class: "sort", on: { click: () => app.setParams({ sortBy: sort, sortOrder: next }) } }, title, isIt ? icon(way === "desc" ? "down" : "up") : null) : title);
    })));
    const isEmpty = list.total !== null && !list.rows.length;
    show(nothing, list.error ? trouble(list.error) : isEmpty
      ? empty("No job is like that", key === identity(new URLSearchParams()) ? "Nothing has been heard of any job yet." : "Take a filter away, or look for an id with Ctrl-K.")
      : list.total === null ? h("p", { class: "muted", role: "status" }, "Loading…") : null);
    const file = (format, name) => h("a", { href: `${BASE}/api/jobs${query({ ...asked(app.params), format })}`, download: "" }, name);
    show(foot, h("span", {}, list.rows.length ? `${exact(list.rows.length)} loaded${list.done ? "" : ", more as you scroll"}` : ""),
      h("span", { class: "files" }, list.total ? ["Download ", file("csv", "CSV"), " or ", file("jsonl", "JSON lines")] : ""),
      h("span", { class: "keys" }, h("kbd", {}, "j"), h("kbd", {}, "k"), " move ", h("kbd", {}, "Enter"), " open ", h("kbd", {}, "c"), " copy id ", h("kbd", {}, "/"), " search"));
  }

  function pill() {
    if (!list.fresh && !list.changed) return null;
    const more = list.fresh >= PAGE ? `${PAGE} or more` : count(list.fresh);
    return h("button", { type: "button", class: "pill", on: { click: renew } }, icon("up"), list.fresh ? `${more} new ${list.fresh === 1 ? "job" : "jobs"}` : "The list has changed");
  }

  function move(by) {
    if (!list.rows.length) return;
    const now = list.rows.findIndex(({ id }) => id === ui.active);
    const height = rowHeight();
    const next = now < 0 ? Math.ceil(scroller.scrollTop / height) : Math.min(list.rows.length - 1, Math.max(0, now + by));
    const y = next * height;
    if (y < scroller.scrollTop) scroller.scrollTop = y;
    else if (y + height > scroller.scrollTop + scroller.clientHeight) scroller.scrollTop = y + height - scroller.clientHeight;
    ui.active = list.rows[next].id;
    paint();
    const wanted = [...space.children].find(({ dataset }) => dataset.id === list.rows[next].id);
    wanted?.querySelector("a.main")?.focus({ preventScroll: true });
  }

  function onKey(event) {
    const { key: pressed } = event;
    if (pressed === "j" || pressed === "ArrowDown") move(1);
    else if (pressed === "k" || pressed === "ArrowUp") move(-1);
    else if (pressed === "PageDown" && ui.active) move(15);
    else if (pressed === "PageUp" && ui.active) move(-15);
    else if (pressed === "/") document.getElementById("search")?.focus();
    else if (pressed === "c" && ui.active) space.querySelector(`[data-id="${ui.active}"] .copy`)?.click();
    else if (pressed === "n" && (list.fresh || list.changed)) renew();
    else return;
    event.preventDefault();
  }

  const resized = () => requestAnimationFrame(paint);
  addEventListener("resize", resized);
  const clock = setInterval(() => {
    // Durations of what runs, and times that were long ago.
    if (!document.hidden) paint();
  }, 1000);
  begin();

  return {
    draw: frame,
    key: onKey,
    changed: () => (identity(app.params) === key ? frame() : begin()),
    stop() {
      if (list.total !== null && list.rows.length) left = { key, list: { ...list, fresh: 0, loading: false }, scrollTop: scroller.scrollTop };
      ui.alive = false;
      turn += 1;
      look.cancel();
      leave();
      clearInterval(clock);
      removeEventListener("resize", resized);
    },
  };
}

const WRONG = [["lost", "Lost: its worker is gone, and never said how it ended."], ["stuck", "Stuck: it runs far longer than usual."], ["waiting", "It waits for too long."]];

/** The state, and what is wrong with it: that is no state of its own. */
function sign(job) {
  const [kind, text] = WRONG.find(([name]) => job[name] && !ENDED.has(job.state)) ?? [];
  return [badge(job.state), kind ? h("span", { class: `wrong ${kind}`, title: text }, icon("failures"), h("span", { class: "away" }, text)) : null];
}

function took(job) {
  if (job.durationMs !== null && ENDED.has(job.state)) return duration(job.durationMs);
  if (job.state === "active" && job.startedAt) return h("span", { class: "running" }, duration(Date.now() - Date.parse(job.startedAt)));
  return job.durationMs === null ? NONE : duration(job.durationMs);
}
