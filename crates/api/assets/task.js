// One task: how often it runs, how long it takes, and how it fails.

import { get, path } from "./api.js";
import { h } from "./dom.js";
import { ago, count, duration, percent, rate } from "./format.js";
import { range, ranges, workPlots } from "./overview.js";
import { groups } from "./failures.js";
import { refreshing } from "./page.js";
import { empty, figure, jobLines, notice, panel, tag } from "./ui.js";

export default function task(root, app) {
  const name = app.params.get("name") ?? "";
  app.title(name);
  const load = async (signal) => {
    const params = { timeRange: range(app), connectionId: app.params.get("connectionId") };
    const { connectionId } = params;
    const [one, failures, failed, latest] = await Promise.all([
      get(path("tasks", name), params, signal),
      get("/api/failures", { ...params, name, limit: 10 }, signal),
      get("/api/jobs", { name, connectionId, state: "failed", limit: 8 }, signal),
      get("/api/jobs", { name, connectionId, limit: 8 }, signal),
    ]);
    return { one, failures, failed, latest };
  };
  const view = ({ one, failures, failed, latest }) => h("div", { class: "page", key: "task" },
    h("div", { class: "head job" },
      h("nav", { class: "crumbs", "aria-label": "Where you are" }, h("a", { href: app.link("/tasks") }, "Tasks")),
      h("div", { class: "title" }, h("h1", { class: "wrap" }, name), one.data.some(({ overdue }) => overdue) ? tag("overdue", "warn") : null, h("span", { class: "grow" }), ranges(app))),
    one.data.map((data) => h("div", { class: "stack", key: data.connectionId },
      one.data.length > 1 ? h("h2", {}, app.connectionName(data.connectionId)) : null,
      h("div", { class: "figures" },
        figure("Completed", count(data.completed), { note: rate(data.throughput) }),
        figure("Failed", count(data.failed), { note: percent(data.failureRate), kind: data.failed ? "bad" : "", href: app.link("/jobs", { name, state: "failed" }) }),
        figure("Retried runs", count(data.retried), { note: percent(data.retryRate) }),
        figure("Runtime p95", duration(data.runtimeMs.p95), { note: `p50 ${duration(data.runtimeMs.p50)}, max ${duration(data.runtimeMs.max)}` }),
        figure("Wait p95", duration(data.waitMs.p95), { note: `p50 ${duration(data.waitMs.p50)}` }),
        figure("Last run", ago(data.lastRunAt), { note: data.everySeconds === null ? "seldom" : `every ${duration(data.everySeconds * 1000)}`, kind: data.overdue ? "warn" : "" })),
      workPlots(app, data, data.buckets))),
    panel("Failure groups", { note: failures.pagination.total ? count(failures.pagination.total) : null, side: h("a", { href: app.link("/failures", { name }) }, "All groups") },
      failures.data.length ? groups(app, failures.data, { withName: false }) : empty("It has not failed in this time")),
    h("div", { class: "grid two" },
      panel("Latest jobs", { side: h("a", { href: app.link("/jobs", { name }) }, "All jobs") }, latest.data.length ? jobLines(latest.data.map(withId)) : empty("No job of it is kept any more")),
      panel("Latest failures", { side: h("a", { href: app.link("/jobs", { name, state: "failed" }) }, "All failed") }, failed.data.length ? jobLines(failed.data.map(withError)) : empty("No job of it has failed"))));
  const missing = (error) => error.status === 404
    ? h("div", { class: "page" }, h("div", { class: "head" }, h("h1", { class: "wrap" }, name || "No task is named")), notice("warn", error.message), h("p", {}, h("a", { href: app.link("/tasks") }, "All tasks")))
    : null;
  const shown = refreshing(root, { load, view, failed: missing, stream: { types: "job", name, connectionId: app.params.get("connectionId") } });
  return { ...shown, changed: shown.ask };
}

const withId = (job) => ({ ...job, name: job.externalId });
const withError = (job) => ({ ...job, name: job.error ?? job.externalId });
