// Who works.

import { h } from "./dom.js";
import { ago, count, NONE, rate } from "./format.js";
import { all, refreshing } from "./page.js";
import { choice, empty, table, tag } from "./ui.js";

const STATES = [["", "All"], ["busy", "Busy"], ["idle", "Idle"], ["online", "Online"], ["offline", "Offline"]];

export default function workers(root, app) {
  const order = () => ({ by: app.params.get("sortBy") ?? "hostname", way: app.params.get("sortOrder") ?? "asc" });
  const load = (signal) => all("/api/workers", {
    connectionId: app.params.get("connectionId"), state: app.params.get("state"), sortBy: order().by, sortOrder: order().way,
  }, signal, 2000);
  const link = (state) => {
    const set = app.params;
    state ? set.set("state", state) : set.delete("state");
    return `${location.pathname}?${set}`;
  };
  const isRecent = (text) => text && Date.now() - Date.parse(text) < 3600e3;
  const view = (rows) => h("div", { class: "page", key: "workers" },
    h("div", { class: "head" }, h("h1", {}, "Workers"), h("span", { class: "note" }, count(rows.length)), choice("State", STATES, app.params.get("state") ?? "", link)),
    rows.length ? table("Workers", [
      { name: "Worker", sort: "hostname", class: "cut", of: (worker) => worker.externalId },
      { name: "State", sort: "state", of: (worker) => [h("span", { class: `word ${worker.state}` }, h("span", { class: "dot" }), worker.state), isRecent(worker.restartedAt) ? tag("restarted", "warn", "Another process took its place within the last hour.") : null] },
      { name: "Runs now", number: true, sort: "activeJobs", of: (worker) => h("a", { href: app.link("/jobs", { worker: worker.externalId, state: "active" }) }, count(worker.activeJobs), worker.concurrency ? h("span", { class: "muted" }, ` of ${worker.concurrency}`) : null) },
      { name: "Rate", number: true, sort: "taskRate", of: (worker) => (worker.taskRate === null ? NONE : rate(worker.taskRate / 60)) },
      { name: "Processed", number: true, wide: true, of: (worker) => count(worker.processedTotal) },
      { name: "Queues", wide: true, class: "wrap", of: (worker) => worker.queues.map((queue) => tag(queue)) },
      { name: "Process", number: true, wide: true, of: (worker) => (worker.pid === null ? NONE : String(worker.pid)) },
      { name: "Software", wide: true, of: (worker) => worker.metadata.software ?? NONE },
      { name: "Load", number: true, wide: true, of: (worker) => (Array.isArray(worker.metadata.loadavg) ? String(worker.metadata.loadavg[0]) : NONE) },
      { name: "Heard", number: true, sort: "lastHeartbeat", of: (worker) => ago(worker.lastHeartbeat) },
    ], rows, {
      key: (worker) => worker.id, order: order(), href: (worker) => app.link("/jobs", { worker: worker.externalId }),
      sorted: (sortBy, sortOrder) => app.setParams({ sortBy, sortOrder }),
    }) : empty("No worker is heard", "Start one with events on: celery -A yourapp worker -E"));
  const shown = refreshing(root, { load, view, stream: { types: "worker", connectionId: app.params.get("connectionId") }, every: 5000 });
  return { ...shown, changed: shown.ask };
}
