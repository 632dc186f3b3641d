// What the pages have in common: asking, showing, asking again when something happens.

import { get } from "./api.js";
import { h, show } from "./dom.js";
import { follow, throttled } from "./live.js";
import { notice } from "./ui.js";

// Without any event: numbers that go by time change too.
const AT_LEAST = 15000;
const PAUSE = 1000;

/**
 * Shows what `view(data)` makes of what `load(signal)` gives, and again whenever an event of `stream` comes. With
 * `every` it is asked for by the clock, too.
 */
export function refreshing(root, { load, view, stream = {}, wants = () => true, pause = PAUSE, every = AT_LEAST, failed }) {
  let data;
  let abort = new AbortController();
  let alive = true;
  const draw = () => alive && data !== undefined && show(root, view(data));
  const look = async () => {
    if (!alive) return;
    abort = new AbortController();
    try {
      data = await load(abort.signal);
      root.setAttribute("aria-busy", "false");
      draw();
    } catch (error) {
      if (!alive || error.name === "AbortError" || error.status === 401) return;
      const shown = failed?.(error) ?? (data === undefined || error.status === 404 ? trouble(error) : null);
      if (shown) show(root, shown);
      if (error.status === 0 || error.status >= 500) setTimeout(ask, (error.retryAfter ?? 2) * 1000);
    }
  };
  const ask = throttled(look, pause);
  const leave = follow(stream, { happened: (kind, event) => wants(kind, event) && ask(), again: ask });
  const clock = every && setInterval(() => !document.hidden && ask(), every);
  look();
  return {
    draw,
    ask,
    get data() { return data; },
    stop() {
      alive = false;
      abort.abort();
      ask.cancel();
      leave();
      clearInterval(clock);
    },
  };
}

/**
 * Changes that a page makes, one after the other. `failure` is what went wrong with the last one; `page()` is drawn anew
 * and asked for when one is done.
 */
export function changing(page) {
  const changes = { failure: null, busy: false };
  changes.make = async (work) => {
    Object.assign(changes, { failure: null, busy: true });
    page().draw();
    try {
      await work();
    } catch (error) {
      changes.failure = error.message;
      // Not an answer of the server, so a mistake of this page.
      if (error.status === undefined) console.error(error);
    }
    changes.busy = false;
    page().ask();
    page().draw();
  };
  return changes;
}

/** In place of a page that only admins may see, for others. The server refuses it to them, too. */
export function forAdmins(root, app, title) {
  app.session().then((session) => {
    if (session?.role !== "reader" || !page.alive) return;
    root.setAttribute("aria-busy", "false");
    show(root, h("div", { class: "page", key: "refused" }, h("div", { class: "head" }, h("h1", {}, title)), notice("warn", "Only an admin may see this.")));
  });
  const page = { alive: true, isForAdmins: true, stop() { page.alive = false; } };
  return page;
}

/** What went wrong, and what happens now. */
export function trouble(error) {
  // Not an answer of the server, so a mistake of this page.
  if (error.status === undefined) console.error(error);
  const progress = error.details;
  const done = progress?.eventsTotal ? ` ${Math.round((progress.eventsDone / progress.eventsTotal) * 100)} % of ${progress.eventsTotal} events.` : "";
  const again = error.status === 0 || error.status >= 500 ? " It is tried again by itself." : "";
  return h("div", { class: "page" }, notice("bad", h("b", {}, error.message ?? String(error)), `${done}${again}`));
}

/** All pages of a list that comes in numbered pages, up to so many rows. */
export async function all(url, params, signal, limit = 1000) {
  const rows = [];
  for (let page = 1; rows.length < limit; page += 1) {
    const answer = await get(url, { ...params, limit: 100, page }, signal);
    rows.push(...answer.data);
    if (page >= answer.pagination.totalPages) break;
  }
  return rows;
}
