// Task names, and how their jobs went.

import { get } from "./api.js";
import { h } from "./dom.js";
import { ago, count, duration, percent, rate } from "./format.js";
import { range, ranges } from "./overview.js";
import { refreshing } from "./page.js";
import { empty, pages, table, tag } from "./ui.js";

export default function tasks(root, app) {
  const order = () => ({ by: app.params.get("sortBy") ?? "failed", way: app.params.get("sortOrder") ?? "desc" });
  const load = (signal) => get("/api/tasks", {
    timeRange: range(app), connectionId: app.params.get("connectionId"), search: app.params.get("search"),
    sortBy: order().by, sortOrder: order().way, page: app.params.get("page"), limit: 100,
  }, signal);
  const several = () => app.connections().length > 1 && !app.params.get("connectionId");
  let later;
  const search = () => h("label", { class: "searchbox" }, h("span", { class: "away" }, "Task name contains"), h("input", {
    type: "search", value: app.params.get("search") ?? "", placeholder: "Task name contains…", spellcheck: "false", autocomplete: "off", maxlength: 500,
    on: { input: (event) => {
      clearTimeout(later);
      const value = event.target.value;
      later = setTimeout(() => app.setParams({ search: value.trim(), page: null }, { replace: true }), 200);
    } },
  }));
  const view = ({ data, pagination }) => h("div", { class: "page", key: "tasks" },
    h("div", { class: "head" }, h("h1", {}, "Tasks"), h("span", { class: "note" }, count(pagination.total)), search(), ranges(app)),
    data.length ? table("Tasks", [
      { name: "Task", sort: "name", class: "cut", of: (task) => task.name },
      ...(several() ? [{ name: "Connection", wide: true, of: (task) => app.connectionName(task.connectionId) }] : []),
      { name: "Completed", number: true, sort: "completed", of: (task) => count(task.completed) },
      { name: "Failed", number: true, sort: "failed", of: (task) => h("span", { class: task.failed ? "text-bad" : "muted" }, count(task.failed)) },
      { name: "Failure rate", number: true, sort: "failureRate", of: (task) => percent(task.failureRate) },
      { name: "Retry rate", number: true, sort: "retryRate", wide: true, of: (task) => percent(task.retryRate) },
      { name: "Throughput", number: true, sort: "throughput", wide: true, of: (task) => rate(task.throughput) },
      { name: "p50", number: true, wide: true, of: (task) => duration(task.runtimeMs.p50) },
      { name: "p95", number: true, sort: "runtimeP95", of: (task) => duration(task.runtimeMs.p95) },
      { name: "Wait p95", number: true, sort: "waitP95", wide: true, of: (task) => duration(task.waitMs.p95) },
      { name: "Last run", number: true, sort: "lastRunAt", of: (task) => [task.overdue ? tag("overdue", "warn", "It runs at regular times and should have run long ago.") : null, ago(task.lastRunAt)] },
    ], data, {
      key: (task) => task.name + task.connectionId, order: order(),
      href: (task) => (task.admitted ? app.link("/task", { name: task.name }) : null),
      sorted: (sortBy, sortOrder) => app.setParams({ sortBy, sortOrder, page: null }),
    }) : empty("No task is known", app.params.get("search") ? "None has this in its name." : "Names appear with the first job that ran."),
    pages(pagination, (page) => `${location.pathname}?${withPage(app, page)}`));
  const shown = refreshing(root, { load, view, stream: { types: "job", connectionId: app.params.get("connectionId") }, pause: 2000 });
  return { ...shown, changed: shown.ask };
}

export function withPage(app, page) {
  const set = app.params;
  set.set("page", page);
  return set;
}
