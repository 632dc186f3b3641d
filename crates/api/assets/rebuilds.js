// The views made anew from the log, and how the server is.

import { get, path, post, remove } from "./api.js";
import { h } from "./dom.js";
import { ago, bytes, count, duration, exact } from "./format.js";
import { problems } from "./overview.js";
import { changing, refreshing } from "./page.js";
import { confirm, empty, facts, figure, notice, panel, table } from "./ui.js";

const UNDER_WAY = new Set(["running", "catching-up", "verifying"]);
const WORDS = { running: "reads the log", "catching-up": "follows the log to its end", verifying: "compares, or waits for you", completed: "serves", failed: "failed", aborted: "stopped" };

export default function rebuilds(root, app) {
  const load = async (signal) => {
    const [{ data }, health] = await Promise.all([get("/api/rebuilds", {}, signal), get("/api/health", {}, signal)]);
    clearTimeout(page?.soon);
    // While one is under way its progress is asked for.
    if (page && data.some(({ state }) => UNDER_WAY.has(state))) page.soon = setTimeout(page.ask, 1000);
    return { data, health };
  };
  const changes = changing(() => page);
  const change = changes.make;
  const begin = () => confirm("Make the views anew from the log?", "What is there goes on answering until the new ones are made and compared.", "Rebuild", () => change(() => post("/api/rebuilds")));
  const view = ({ data, health }) => {
    const now = data.find(({ state }) => UNDER_WAY.has(state));
    const { log, projector, views, scrub, retention, disk } = health;
    return h("div", { class: "page", key: "rebuilds" },
      h("div", { class: "head" }, h("h1", {}, "Rebuild"), h("span", { class: "grow" }), app.isAdmin() ? h("button", { type: "button", class: "button primary", disabled: !!now, on: { click: begin } }, "Rebuild the views") : null),
      problems(app, health), changes.failure ? notice("bad", changes.failure) : null,
      h("div", { class: "figures" },
        figure("Server", health.status, { note: `Forebay ${health.version}`, kind: health.status === "ok" ? "" : "bad" }),
        figure("Messages in the log", count(log?.messages), { note: bytes(log?.bytes) }),
        figure("Behind the log", count(projector?.lagEvents), { note: projector?.phase }),
        figure("Quarantined", count(projector?.quarantined), { note: "events that cannot be used", kind: projector?.quarantined ? "warn" : "" })),
      now ? panel("Under way", { note: WORDS[now.state] ?? now.state }, progress(now, app.isAdmin() ? change : null)) : null,
      panel("Rebuilds", { note: "the latest first" }, data.length ? table("Rebuilds", [
        { name: "Begun", of: (one) => ago(one.startedAt) },
        { name: "State", of: (one) => h("span", { class: `word ${one.state}` }, h("span", { class: "dot" }), WORDS[one.state] ?? one.state) },
        { name: "Events", number: true, of: (one) => count(one.eventsDone) },
        { name: "Events/s", number: true, wide: true, of: (one) => count(Math.round(one.eventsPerSecond)) },
        { name: "Jobs", number: true, of: (one) => count(one.jobs) },
        { name: "Same as before", of: (one) => (one.sameAsBefore === null ? "–" : one.sameAsBefore ? "yes" : `no, ${count(one.differing.length)} differ`) },
        { name: "Why", class: "wrap", wide: true, of: (one) => one.reason },
      ], data, { key: (one) => one.id }) : empty("None since the start", "The views are made from the log as events come, and can be made anew at any time.")),
      h("div", { class: "grid two" },
        panel("Views and log", facts([
          ["Views are at", views ? exact(views.sequence) : null], ["Log ends at", log ? exact(log.lastSequence ?? 0) : null], ["Log begins at", log ? exact(log.firstSequence ?? 0) : null],
          ["Digest", views ? h("span", { class: "mono wrap" }, views.digest) : null], ["Version of the fold", views ? String(views.foldVersion) : null], ["nats-server", log?.serverVersion],
        ])),
        panel("Checked and kept", facts([
          ["Comparison with the log", scrub ? `${scrub.state}${scrub.lastResult ? `, last: ${scrub.lastResult}` : ""}` : null], ["Last compared", scrub?.lastAt ? ago(scrub.lastAt) : null],
          ["Kept for", retention?.keepSeconds ? duration(retention.keepSeconds * 1000) : null], ["Log takes", retention ? `${bytes(retention.logBytes)} of ${bytes(retention.allowedBytes)}` : null],
          ["Oldest event", retention?.oldestAt ? ago(retention.oldestAt) : null], ["Disk", disk ? `${bytes(disk.freeBytes)} free of ${bytes(disk.totalBytes)}` : null],
        ]))));
  };
  let page = null;
  page = refreshing(root, { load, view, stream: { types: "worker" }, wants: () => false, every: 5000, pause: 500 });
  return { ...page, changed: page.ask, stop() { clearTimeout(page.soon); page.stop(); } };
}

function progress(now, change) {
  const part = now.eventsTotal ? Math.min(1, now.eventsDone / now.eventsTotal) : 0;
  const waits = now.state === "verifying" && now.reason;
  return [
    h("div", { class: "progress", role: "progressbar", "aria-label": "Rebuild", "aria-valuenow": Math.round(part * 100), "aria-valuemin": 0, "aria-valuemax": 100 },
      h("span", { css: { width: `${part * 100}%` } }), h("b", {}, `${Math.round(part * 100)} %`)),
    h("p", { class: "muted" }, `${exact(now.eventsDone)} of ${exact(now.eventsTotal)} events, ${exact(Math.round(now.eventsPerSecond))} a second, ${exact(now.jobs)} jobs${now.etaSeconds !== null ? `, some ${duration(now.etaSeconds * 1000)} more` : ""}`),
    waits ? notice("warn", now.reason) : null,
    change ? h("div", { class: "buttons" },
      waits ? h("button", { type: "button", class: "button primary", on: { click: () => change(() => post(`${path("rebuilds", now.id)}/promote`)) } }, "Let the new views serve") : null,
      h("button", { type: "button", class: "button", on: { click: () => change(() => remove(path("rebuilds", now.id))) } }, "Stop it")) : null,
  ];
}
