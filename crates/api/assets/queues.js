// What waits, and how it goes.

import { h } from "./dom.js";
import { ago, count, duration, NONE, percent, rate } from "./format.js";
import { range, ranges } from "./overview.js";
import { all, refreshing } from "./page.js";
import { health } from "./plot.js";
import { empty, table } from "./ui.js";

export default function queues(root, app) {
  const order = () => ({ by: app.params.get("sortBy") ?? "name", way: app.params.get("sortOrder") ?? "asc" });
  const load = (signal) => all("/api/queues", {
    timeRange: range(app), connectionId: app.params.get("connectionId"), sortBy: order().by, sortOrder: order().way,
  }, signal);
  const sums = (queue) => queue.healthBar.buckets.reduce((sum, bucket) => ({ good: sum.good + bucket.succeeded, bad: sum.bad + bucket.failed }), { good: 0, bad: 0 });
  const label = (queue) => `${queue.name} over ${range(app)}: ${count(sums(queue).good)} completed, ${count(sums(queue).bad)} failed`;
  const view = (rows) => h("div", { class: "page", key: "queues" },
    h("div", { class: "head" }, h("h1", {}, "Queues"), h("span", { class: "note" }, count(rows.length)), ranges(app)),
    rows.length ? table("Queues", [
      { name: "Queue", sort: "name", class: "cut", of: (queue) => queue.name },
      { name: "Waiting", number: true, sort: "depth", of: (queue) => h("a", { href: app.link("/jobs", { queue: queue.name, state: "queued" }), title: queue.depthAt ? "As its own system says" : "By what the jobs' events tell" }, h("b", {}, count(queue.depth))) },
      { name: "Oldest", number: true, of: (queue) => (queue.oldestQueuedAt ? ago(queue.oldestQueuedAt) : NONE) },
      { name: "Workers", number: true, sort: "consumers", of: (queue) => (queue.consumers ? count(queue.consumers) : h("span", { class: queue.depth ? "text-bad" : "muted", title: queue.depth ? "Jobs wait, and nobody takes them." : undefined }, "0")) },
      { name: "Throughput", number: true, wide: true, sort: "throughput", of: (queue) => rate(queue.throughput) },
      { name: "Wait, average", number: true, wide: true, of: (queue) => duration(queue.avgLatencyMs) },
      { name: "Failure rate", number: true, sort: "failureRate", of: (queue) => h("span", { class: queue.failureRate ? "text-bad" : "muted" }, percent(queue.failureRate)) },
      { name: `Health, ${range(app)}`, class: "healthcell", wide: true, of: (queue) => health(label(queue), queue.healthBar.buckets) },
    ], rows, {
      key: (queue) => queue.id, order: order(), href: (queue) => app.link("/jobs", { queue: queue.name }),
      sorted: (sortBy, sortOrder) => app.setParams({ sortBy, sortOrder }),
    }) : empty("No queue is known", "Set task_send_sent_event = True where tasks are sent: only that event names the queue."));
  const shown = refreshing(root, { load, view, stream: { types: "queue,job", connectionId: app.params.get("connectionId") }, pause: 2000, every: 5000 });
  return { ...shown, changed: shown.ask };
}
