// What happens, as it happens: one stream for the page that is shown, none while the tab is hidden (a browser has few
// connections to spare for one server). Where more happens than anybody can follow, the page is asked to look again
// every so often instead.

import { BASE } from "./api.js";

const KINDS = ["job:state_change", "worker:state_change", "worker:heartbeat", "queue:snapshot", "resync"];
// More than that per second, for some seconds, is a flood.
const FLOOD = 250;
const AFTER_FLOOD = 20000;
const LOOK = 2000;

let current = null;
let tell = () => {};

/** Who wants to know how the stream is: `live`, `sampled`, `paused`, `away`. */
export function status(listener) {
  tell = listener;
}

/** Opens the stream of a page. `happened(kind, data)` hears each event, `again()` asks for a fresh look. */
export function follow(params, { happened = () => {}, again }) {
  stop();
  const mine = { params, happened, again, source: null, counted: 0, flooded: 0, timers: [] };
  current = mine;
  open(mine);
  mine.timers.push(setInterval(() => count(mine), 1000));
  return () => current === mine && stop();
}

export function stop() {
  if (!current) return;
  close(current);
  current.timers.forEach(clearInterval);
  clearTimeout(current.later);
  current = null;
}

function open(stream) {
  if (document.hidden) return tell("paused");
  const set = Object.entries(stream.params).filter(([, value]) => value);
  const source = new EventSource(`${BASE}/api/events/stream?${new URLSearchParams(set)}`);
  stream.source = source;
  source.onopen = () => tell("live");
  source.onerror = () => {
    tell("away");
    if (source.readyState !== EventSource.CLOSED || stream.source !== source) return;
    // Refused: who is not logged in any more finds out by looking again.
    stream.source = null;
    stream.again();
    stream.later = setTimeout(() => current === stream && !stream.source && open(stream), LOOK);
  };
  for (const kind of KINDS) {
    source.addEventListener(kind, (event) => {
      stream.counted += 1;
      if (kind === "resync") stream.again();
      else stream.happened(kind, JSON.parse(event.data));
    });
  }
  source.addEventListener("overflow", () => flood(stream));
}

function close(stream) {
  stream.source?.close();
  stream.source = null;
}

function count(stream) {
  stream.flooded = stream.counted > FLOOD ? stream.flooded + 1 : 0;
  stream.counted = 0;
  if (stream.flooded >= 2 && stream.source) flood(stream);
  else if (!stream.source && stream.until > Date.now()) stream.again();
}

function flood(stream) {
  close(stream);
  stream.flooded = 0;
  stream.until = Date.now() + AFTER_FLOOD;
  tell("sampled");
  stream.later = setTimeout(() => current === stream && !stream.source && open(stream), AFTER_FLOOD);
}

document.addEventListener("visibilitychange", () => {
  if (!current) return;
  if (document.hidden) {
    close(current);
    tell("paused");
  } else if (!current.source) {
    open(current);
    current.again();
  }
});

/**
 * Calls `work` soon after the first call, at most once in `pause` milliseconds, and once more where calls came meanwhile.
 * `work` may take its time; only one is under way.
 */
export function throttled(work, pause) {
  let timer = null;
  let running = false;
  let wanted = false;
  let last = 0;
  const run = async () => {
    timer = null;
    running = true;
    wanted = false;
    try {
      await work();
    } finally {
      running = false;
      last = performance.now();
      if (wanted) ask();
    }
  };
  const ask = () => {
    if (running || timer !== null) {
      wanted = true;
      return;
    }
    timer = setTimeout(run, Math.max(0, pause - (performance.now() - last)));
  };
  ask.cancel = () => {
    clearTimeout(timer);
    timer = null;
    wanted = false;
  };
  return ask;
}
