// How everything is.

import { open } from "./alerts.js";
import { get } from "./api.js";
import { h, icon } from "./dom.js";
import { ago, count, duration, percent, rate } from "./format.js";
import { firstRun } from "./firstrun.js";
import { refreshing } from "./page.js";
import { bars, legend, lines } from "./plot.js";
import { badge, choice, empty, figure, jobLines, notice, panel, RANGES, STATES, table } from "./ui.js";

const WORK = [
  { name: "failed", kind: "failed", of: (bucket) => bucket.failed },
  { name: "completed", kind: "completed", of: (bucket) => bucket.completed },
  { name: "cancelled", kind: "cancelled", of: (bucket) => bucket.cancelled },
];
const TIMES = [
  { name: "runtime p50", kind: "p50", of: (bucket) => bucket.runtimeP50Ms },
  { name: "runtime p95", kind: "p95", of: (bucket) => bucket.runtimeP95Ms },
  { name: "wait p95", kind: "wait", of: (bucket) => bucket.waitP95Ms },
];

export const range = (app) => app.params.get("timeRange") ?? "24h";

export function ranges(app) {
  const here = location.pathname;
  const link = (value) => {
    const set = app.params;
    set.set("timeRange", value);
    return `${here}?${set}`;
  };
  return choice("Range of time", RANGES, range(app), link);
}

export function workPlots(app, work, buckets) {
  return h("div", { class: "grid two" },
    panel("Jobs that ended", { side: legend(WORK), note: `${count(work.completed + work.failed + work.cancelled)} in ${range(app)}` },
      bars("Jobs that ended", buckets, WORK)),
    panel("Runtime and wait", { side: legend(TIMES) }, lines("Runtime and wait", buckets, TIMES)));
}

export default function overview(root, app) {
  const load = async (signal) => {
    const [all, health, alerts] = await Promise.all([
      get("/api/overview", { timeRange: range(app), connectionId: app.params.get("connectionId") }, signal),
      get("/api/health", {}, signal),
      // How everything is can be shown without them.
      get("/api/alerts", {}, signal).catch(() => null),
    ]);
    const isFirst = all.jobs.total === 0 && !app.params.get("connectionId");
    return { all, health, alerts, first: isFirst && (await app.session())?.role === "admin" ? await get("/api/first-run", {}, signal) : null };
  };
  const view = ({ all, health, alerts, first }) => {
    if (first && !first.hasJobs) return firstRun(app, first, health, all.workers);
    const { jobs, work, workers, projector } = all;
    const link = (params) => app.link("/jobs", { timeRange: null, ...params });
    const here = workers.online + workers.busy + workers.idle;
    return h("div", { class: "page", key: "overview" },
      h("div", { class: "head" }, h("h1", {}, "Overview"), ranges(app)),
      problems(app, health),
      firing(app, alerts),
      h("div", { class: "figures" },
        figure("Jobs that ended", count(work.completed + work.failed + work.cancelled), { note: rate(work.throughput) }),
        figure("Failure rate", percent(work.failureRate), { note: `${count(work.failed)} failed`, kind: work.failed ? "bad" : "", href: app.link("/failures") }),
        figure("Runtime p95", duration(work.runtimeMs.p95), { note: `p50 ${duration(work.runtimeMs.p50)}` }),
        figure("Wait p95", duration(work.waitMs.p95), { note: `p50 ${duration(work.waitMs.p50)}` }),
        figure("Workers", count(here), { note: `${count(workers.busy)} busy${workers.offline ? `, ${count(workers.offline)} offline` : ""}`, href: app.link("/workers"), kind: here ? "" : "warn" }),
        figure("Behind the log", projector.lagEvents ? `${count(projector.lagEvents)}` : "0", { note: projector.lagEvents ? `${projector.lagSeconds.toFixed(1)} s` : "up to date", title: "Messages of the log that are not in what you see yet" })),
      workPlots(app, work, all.buckets),
      panel("States now", { note: `${count(jobs.total)} jobs in all` },
        h("ul", { class: "states" }, STATES.filter((state) => state !== "unknown" || jobs.unknown).map((state) => h("li", { key: state },
          h("a", { href: link({ state }) }, badge(state), h("b", {}, count(jobs[state]))))))),
      wrong(app, all),
      h("div", { class: "grid two" },
        panel("Slowest tasks", tasks(app, all.slowestTasks, "Slowest tasks", [
          { name: "p95", number: true, of: (task) => duration(task.runtimeMs.p95) }, { name: "p50", number: true, of: (task) => duration(task.runtimeMs.p50) },
          { name: "Runs", number: true, of: (task) => count(task.runtimeMs.count) }], "No run has ended in this time.")),
        panel("Most failing tasks", tasks(app, all.mostFailingTasks, "Most failing tasks", [
          { name: "Failed", number: true, of: (task) => h("span", { class: "text-bad" }, count(task.failed)) }, { name: "Rate", number: true, of: (task) => percent(task.failureRate) },
          { name: "Retried", number: true, of: (task) => count(task.retried) }], "No job has failed in this time."))),
      sources(app, health));
  };
  const shown = refreshing(root, { load, view, stream: { types: "job,worker", connectionId: app.params.get("connectionId") }, wants: (kind) => kind !== "worker:heartbeat" });
  return { ...shown, draw: shown.draw, stop: shown.stop, changed: shown.ask };
}

function tasks(app, rows, label, columns, nothing) {
  if (!rows.length) return empty(nothing);
  return table(label, [{ name: "Task", of: (task) => task.name, class: "cut" }, ...columns], rows,
    { key: (task) => task.name + task.connectionId, href: (task) => app.link("/task", { name: task.name }) });
}

/** What may be wrong with jobs and tasks; in a line where nothing is. */
function wrong(app, all) {
  const jobs = (title, { count: number, jobs: some }, params, by = "startedAt") => number && panel(title, {
    note: count(number), side: h("a", { href: app.link("/jobs", { timeRange: null, ...params }) }, "Show all"),
  }, jobLines(some, { by }));
  const late = all.overdueTasks;
  const overdue = late.length && panel("Overdue", { note: count(late.length), side: h("a", { href: app.link("/tasks") }, "All tasks") },
    h("ul", { class: "lines" }, late.slice(0, 6).map((task) => h("li", { key: task.name + task.connectionId },
      h("a", { class: "grow cut", href: app.link("/task", { name: task.name }) }, task.name), h("span", { class: "muted" }, `every ${duration(task.everySeconds * 1000)}, last `, ago(task.lastRunAt))))));
  const found = [
    ["lost", jobs("Lost", all.lost, { lost: "true" })], ["stuck", jobs("Stuck", all.stuck, { stuck: "true" })],
    ["waiting for too long", jobs("Waiting for too long", all.waiting, { waiting: "true" }, "createdAt")], ["overdue", overdue],
  ];
  const well = found.filter(([, shown]) => !shown).map(([name]) => name);
  return [
    well.length < found.length ? h("div", { class: "grid two", key: "wrong" }, found.map(([, shown]) => shown || null)) : null,
    well.length ? h("p", { class: "calm", key: "calm" }, icon("check"), `Nothing is ${well.length > 1 ? `${well.slice(0, -1).join(", ")} or ` : ""}${well.at(-1)}.`) : null,
  ];
}

/** The incidents that last. */
function firing(app, alerts) {
  const incidents = open(app, alerts?.rules ?? []);
  if (!incidents.length) return null;
  return panel("Alerts", { class: "failed", note: count(incidents.length), side: h("a", { href: app.link("/alerts") }, "All rules") }, h("ul", { class: "cards" }, incidents));
}

// What the server says for those who have no dashboard.
const MORE = /: GET \/api\/coverage says more$/;

/** What is wrong with the server, and what its sources say of themselves. */
export function problems(app, health) {
  const sick = health.status !== "ok" ? notice("bad", h("b", {}, `${health.reason ?? health.status}: `), health.message ?? "see Rebuild for how everything is.") : null;
  const hints = health.sources.filter(({ hint, state }) => hint || state === "down" || state === "refused").map((source) =>
    notice("warn", h("b", {}, `${source.name}: `), source.hint ?? `not connected to ${source.urlMasked}. ${source.reason ?? ""}`));
  const { warnings } = health;
  const gaps = warnings.length ? h("div", { class: "notice warn", role: "status", key: "gaps" },
    h("p", {}, h("b", {}, "Not all is heard. "), h("a", { href: app.link("/coverage") }, "What is missing, and what to do")),
    h("ul", { class: "points" }, warnings.map((warning) => h("li", { key: warning }, warning.replace(MORE, ""))))) : null;
  return sick || hints.length || gaps ? h("div", { class: "notices", key: "problems" }, sick, hints, gaps) : null;
}

function sources(app, health) {
  if (!health.sources.length) return null;
  const gone = (source) => (source.missedSeconds >= 1 ? duration(source.missedSeconds * 1000) : "none");
  return panel("Sources", { side: h("a", { href: app.link("/sources") }, "All of each") }, table("Sources", [
    { name: "Connection", of: (source) => source.name },
    { name: "Broker", of: (source) => h("span", { class: "mono" }, source.urlMasked), wide: true },
    { name: "State", of: (source) => h("span", { class: `word ${source.state}` }, source.state) },
    { name: "Last event", number: true, of: (source) => ago(source.lastEventAt) },
    { name: "Events", number: true, of: (source) => count(source.events) },
    { name: "Unreadable", number: true, wide: true, of: (source) => count(source.decodeErrors) },
    { name: "Dropped", number: true, wide: true, of: (source) => count(source.dropped) },
    { name: "Not heard", number: true, wide: true, of: gone },
  ], health.sources, { key: (source) => source.name }));
}
