// What went wrong, in groups.

import { get } from "./api.js";
import { h } from "./dom.js";
import { ago, count } from "./format.js";
import { range, ranges } from "./overview.js";
import { refreshing } from "./page.js";
import { spark } from "./plot.js";
import { withPage } from "./tasks.js";
import { badge, empty, jobPath, pages } from "./ui.js";

export function groups(app, data, { withName = true } = {}) {
  return h("ul", { class: "groups" }, data.map((group) => h("li", { key: `${group.connectionId} ${group.name} ${group.errorClass} ${group.message}` },
    h("div", { class: "what" },
      h("p", { class: "says" }, group.errorClass ? h("b", {}, group.errorClass) : null, h("span", { class: "wrap" }, group.message || (group.errorClass ? "" : "says nothing"))),
      h("p", { class: "muted" }, withName ? [group.admitted ? h("a", { href: app.link("/task", { name: group.name }) }, group.name) : group.name, " · "] : null,
        "first ", ago(group.firstSeenAt), " · last ", ago(group.lastSeenAt))),
    spark(`Failures over ${range(app)}: ${count(group.count)} jobs, ${count(group.attempts)} attempts`, group.trend.map((part) => [part.count, Math.max(0, part.attempts - part.count)]), ["failed", "retrying"]),
    h("div", { class: "sum number" }, h("b", {}, count(group.count)), h("span", { class: "muted" }, group.count === 1 ? "job" : "jobs")),
    h("div", { class: "sum number" }, h("b", {}, count(group.attempts)), h("span", { class: "muted" }, group.attempts === 1 ? "attempt" : "attempts")),
    group.sampleJobs.length === 0 ? null : h("details", {}, h("summary", {}, "Jobs that show it"),
      h("ul", { class: "lines" }, group.sampleJobs.map((job) => h("li", { key: job.id }, badge(job.state),
        h("a", { class: "mono cut grow", href: jobPath(job.id) }, job.externalId), h("span", { class: "muted cut grow" }, job.error), h("span", { class: "muted number" }, ago(job.completedAt ?? job.createdAt)))))))));
}

export default function failures(root, app) {
  const load = (signal) => get("/api/failures", {
    timeRange: range(app), connectionId: app.params.get("connectionId"), name: app.params.get("name"), page: app.params.get("page"), limit: 50,
  }, signal);
  const view = ({ data, pagination }) => h("div", { class: "page", key: "failures" },
    h("div", { class: "head" }, h("h1", {}, "Failures"), h("span", { class: "note" }, `${count(pagination.total)} ${pagination.total === 1 ? "group" : "groups"}`),
      app.params.get("name") ? h("span", { class: "chip" }, "task ", h("b", {}, app.params.get("name")), h("a", { href: app.link("/failures"), "aria-label": "Show those of all tasks" }, "×")) : null, ranges(app)),
    data.length ? h("div", { class: "panel" }, groups(app, data)) : empty("Nothing has failed", `In the last ${range(app)}, as far as is known.`),
    pages(pagination, (page) => `${location.pathname}?${withPage(app, page)}`));
  const shown = refreshing(root, { load, view, stream: { types: "job", connectionId: app.params.get("connectionId") }, wants: (kind, event) => event.state === "failed" || event.state === "retrying" });
  return { ...shown, changed: shown.ask };
}
