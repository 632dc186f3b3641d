// One job: what became of it, when, where, and why.

import { BASE, get, path } from "./api.js";
import { h } from "./dom.js";
import { ago, brief, count, duration, exact, millis, NONE, time } from "./format.js";
import { errorPanel } from "./failed.js";
import { refreshing } from "./page.js";
import { timeline } from "./timeline.js";
import { badge, code, copy, empty, ENDED, facts, jobPath, notice, panel, table } from "./ui.js";

// Seconds after which a job that runs is looked at again.
const PROGRESS = 3;

export default function job(root, app, id) {
  let events = null;
  let wantsEvents = false;
  const load = async (signal) => {
    // Whatever the id is, the framework's or ours, all of them know it: none waits for the others.
    const [record, health, tree, all] = await Promise.all([
      get(path("jobs", id), {}, signal),
      get("/api/health", {}, signal).catch(() => null),
      get(`${path("jobs", id)}/tree`, {}, signal).catch(() => null),
      wantsEvents ? get(`${path("jobs", id)}/events`, {}, signal).catch(() => null) : null,
    ]);
    events = all ?? events;
    app.title(`${record.name} · ${record.state}`);
    return { record, tree, health };
  };
  const view = ({ record, tree, health }) => h("div", { class: "page", key: record.id },
    heading(app, record),
    warnings(app, record),
    panel("Timeline", { note: whole(record) }, timeline(record)),
    record.error || record.stacktrace ? errorPanel(record) : null,
    h("div", { class: "grid two loose" },
      panel("Facts", details(app, record)),
      h("div", { class: "stack", key: "beside" }, panel("History", history(record)), revoke(app, record, health),
        panel("Recent runs of this task", { side: h("a", { href: app.link("/task", { name: record.name }) }, "All of this task") }, recent(record)))),
    panel("Executions", { note: runs(record) }, executions(app, record)),
    values(record),
    notes(record),
    tree && tree.total > 1 ? panel("Workflow", { note: `${count(tree.total)} jobs` }, workflow(tree, record)) : null,
    panel("Events behind this record", h("details", { class: "events", on: { toggle: (event) => {
      if (event.target.tagName !== "DETAILS" || event.target !== event.currentTarget) return;
      wantsEvents = event.target.open;
      if (wantsEvents) page.ask();
    } } }, h("summary", {}, "What the log holds of this job, and what was made of it"), raw(events))));
  const failed = (error) => error.status === 404
    ? h("div", { class: "page" }, h("div", { class: "head" }, h("h1", {}, "No such job")), notice("warn", "No job has the id ", h("b", { class: "mono" }, id), "."),
        h("p", {}, error.details?.logSince ? ["What the log took before ", time(error.details.logSince), " is forgotten."] : null), h("p", {}, h("a", { href: `${BASE}/jobs` }, "All jobs")))
    : null;
  const page = refreshing(root, { load, view, failed, stream: { types: "job", jobId: id }, pause: 250, every: 20000 });
  // The clock of what runs. What a task says of its progress changes no state, so that no event tells of it: it is asked for.
  let seconds = 0;
  const clock = setInterval(() => {
    if (!page.data || ENDED.has(page.data.record.state) || document.hidden) return;
    seconds += 1;
    page.draw();
    if (page.data.record.state === "active" && seconds % PROGRESS === 0) page.ask();
  }, 1000);
  return { ...page, stop() { clearInterval(clock); page.stop(); }, changed: page.ask };
}

function heading(app, record) {
  return h("div", { class: "head job" },
    h("nav", { class: "crumbs", "aria-label": "Where you are" }, h("a", { href: app.link("/jobs") }, "Jobs"), h("span", { "aria-hidden": "true" }, "/"),
      h("a", { href: app.link("/jobs", { name: record.name }) }, record.name)),
    h("div", { class: "title" }, h("h1", { class: "wrap" }, record.name), badge(record.state)),
    h("div", { class: "under" }, h("span", { class: "mono" }, record.externalId), copy(record.externalId, "Copy the framework's id"),
      h("span", { class: "muted" }, "created ", ago(record.createdAt)),
      record.durationMs !== null ? h("span", { class: "muted" }, `took ${duration(record.durationMs)}`) : null,
      record.attempt > 1 ? h("span", { class: "muted" }, `attempt ${record.attempt}`) : null));
}

function warnings(app, record) {
  return h("div", { class: "notices", key: "warnings" },
    record.truncated ? notice("warn", "Not all events of this job are kept: some steps may be missing.") : null,
    record.lost ? lost(app, record.lost) : null,
    record.stuck ? notice("warn", h("b", {}, "Stuck. "), "It runs since ", time(record.stuck.beganAt), ", and has been over its limit of ", duration(record.stuck.limitMs), " since ", time(record.stuck.since), `. ${usually(record.stuck, "runs of this task took")}`) : null,
    record.waiting ? notice("warn", h("b", {}, "Waits for too long. "), record.waiting.pastEta ? "It was to run at " : "It waits since ", time(record.waiting.beganAt), ", and has been over its limit of ", duration(record.waiting.limitMs), " since ", time(record.waiting.since),
      `. ${usually(record.waiting, "jobs of its queue waited")}`) : null,
    record.progress !== null && !ENDED.has(record.state) ? h("div", { class: "progress", role: "progressbar", "aria-label": "Progress", "aria-valuenow": Math.round(record.progress * 100), "aria-valuemin": 0, "aria-valuemax": 100 },
      h("span", { css: { width: `${record.progress * 100}%` } }), h("b", {}, `${Math.round(record.progress * 100)} %`)) : null);
}

/** What proves that the process of a job is gone. */
const PROOFS = {
  newProcess: ({ pid, newPid, since }) => [`Process ${newPid} took the place of ${pid ?? "it"} at `, time(since), "."],
  clockRestarted: ({ pid, since, countedBefore, countedAfter }) => [`Its process (${pid}) began anew at `, time(since), `: its clock said ${exact(countedAfter)} after ${exact(countedBefore)}.`],
  countRestarted: ({ pid, since, countedBefore, countedAfter }) => [`Its process (${pid}) began anew at `, time(since), `: it had run ${exact(countedAfter)} jobs after ${exact(countedBefore)}.`],
  silent: ({ since, noticedAt }) => ["It was last heard at ", time(since), ", and not until ", time(noticedAt), " though its broker was listened to."],
};

function lost(app, found) {
  return notice("bad",
    h("p", {}, h("b", {}, "Lost. "), "The worker that ran it is gone and never said how it ended: ", h("a", { href: app.link("/jobs", { worker: found.workerId, lost: "true" }) }, found.workerId), ". ", PROOFS[found.evidence]?.(found)),
    h("p", {}, "It will not end by itself; where it is acknowledged late (acks_late), it may run again."));
}

function usually({ p99Ms }, what) {
  return p99Ms === null ? `How long ${what} is not known yet.` : `99 of 100 ${what} at most ${duration(p99Ms)}.`;
}

function whole(record) {
  const last = record.stateHistory.at(-1);
  const end = ENDED.has(record.state) && last ? millis(last.timestamp) : Date.now();
  return `${duration(Math.max(0, end - millis(record.createdAt)))} ${ENDED.has(record.state) ? "in all" : "so far"}`;
}

function details(app, record) {
  const { maxRetries } = record;
  const tags = Object.entries(record.tags ?? {});
  const more = Object.entries(record.extensions ?? {});
  const id = (value) => [h("a", { class: "mono", href: jobPath(value) }, brief(value, 13)), copy(value)];
  return facts([
    ["Id", [h("span", { class: "mono" }, record.id), copy(record.id, "Copy Forebay's id")]],
    ["External id", [h("span", { class: "mono" }, record.externalId), copy(record.externalId, "Copy the framework's id")]],
    ["Queue", record.queue ? h("a", { href: app.link("/jobs", { queue: record.queue }) }, record.queue) : h("span", { class: "muted", title: "Only task_send_sent_event tells it." }, "not told")],
    ["Worker", record.workerId ? h("a", { href: app.link("/jobs", { worker: record.workerId }) }, record.workerId) : null],
    ["Attempt", maxRetries === null ? String(record.attempt) : `${record.attempt} of at most ${maxRetries + 1}`],
    ["Deliveries", record.deliveries > 1 ? `${count(record.deliveries)} times` : record.deliveries ? "once" : null],
    ["Scheduled for", record.scheduledFor ? time(record.scheduledFor) : null],
    ["Started", record.startedAt ? time(record.startedAt) : null],
    ["Ended", record.completedAt ? time(record.completedAt) : null],
    ["Told by", record.outcomeFrom === "result-backend" ? "Celery’s result backend; no event came" : null],
    ["Connection", app.connectionName(record.connectionId)],
    ["Framework", record.framework],
    ["Parent", record.parentId ? id(record.parentId) : null],
    ["Root", record.rootId && record.rootId !== record.id ? id(record.rootId) : null],
    ["Labels", tags.length ? tags.map(([name, value]) => h("span", { class: "tag" }, `${name}: ${said(value)}`)) : null],
    ...more.map(([name, value]) => [name, h("span", { class: "mono wrap" }, said(value))]),
  ]);
}

const said = (value) => (typeof value === "string" ? value : JSON.stringify(value));

function history(record) {
  let before = null;
  return h("ol", { class: "history", "aria-label": "History" }, record.stateHistory.map((step, index) => {
    const after = before === null ? null : millis(step.timestamp) - before;
    before = millis(step.timestamp);
    return h("li", { key: index }, badge(step.state), time(step.timestamp), h("span", { class: "muted number" }, after === null ? "" : `+${duration(Math.max(0, after))}`));
  }));
}

/** The words that make Celery forget a task, for the shell. */
function revoke(app, record, health) {
  if (record.framework !== "celery" || ENDED.has(record.state)) return null;
  const source = health?.sources.find(({ connectionId }) => connectionId === record.connectionId);
  const url = source?.urlMasked;
  const isWhole = url && !url.includes("*");
  const at = isWhole ? `-b ${quoted(url)}` : "-A yourapp";
  const id = quoted(record.externalId);
  return panel("Revoke",
    h("p", {}, record.state === "active" ? "It runs already: revoking alone does not stop it, ending its process does." : "Workers that hear this will not run it."),
    code(record.state === "active" ? `celery ${at} control terminate SIGTERM ${id}` : `celery ${at} control revoke ${id}`, "Copy the command"),
    h("p", { class: "muted" }, isWhole ? "Forebay itself only listens." : "Put your app's name in place of yourapp. Forebay itself only listens."));
}

function quoted(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}

function runs(record) {
  const { length } = record.executions;
  return length ? `${count(length)} ${length === 1 ? "run" : "runs"}` : null;
}

function executions(app, record) {
  if (!record.executions.length) return empty("It has not run yet");
  const took = (run) => (run.startedAt && run.completedAt ? duration(millis(run.completedAt) - millis(run.startedAt)) : run.startedAt && !run.outcome ? duration(Date.now() - millis(run.startedAt)) : NONE);
  return table("Executions", [
    { name: "Attempt", of: (run) => String(run.attempt) },
    { name: "Outcome", of: (run) => badge(run.outcome ?? "active", run.outcome ?? "running") },
    { name: "Started", of: (run) => (run.startedAt ? time(run.startedAt) : null) },
    { name: "Took", number: true, of: took },
    { name: "Worker", of: (run) => run.workerId, wide: true },
    { name: "Process", number: true, of: (run) => (run.pid === null ? null : String(run.pid)), wide: true },
    { name: "Error", of: (run) => (run.error ? h("span", { class: "clamp", title: run.error }, run.error) : null), class: "wrap" },
  ], record.executions.map((run, index) => ({ ...run, index })), { key: (run) => run.index });
}

function values(record) {
  const all = [["Arguments", record.args], ["Keyword arguments", record.kwargs], ["Result", record.result]].filter(([, value]) => value !== null && value !== undefined && !["{}", "()"].includes(said(value)));
  if (!all.length) return null;
  return panel("Arguments and result", { note: record.framework === "celery" ? "as Celery shows them: long ones are cut" : null },
    all.map(([name, value]) => h("div", { class: "value", key: name }, h("h3", {}, name), code(typeof value === "string" ? value : JSON.stringify(value, null, 2), `Copy: ${name}`))));
}

/** What the task itself had to say. */
function notes(record) {
  if (!record.notes?.length) return null;
  return panel("What the task said", { note: record.notesTruncated ? "the first and the last of it" : null }, table("What the task said", [
    { name: "When", of: (note) => time(note.timestamp) },
    { name: "What", of: (note) => note.name },
    { name: "Data", class: "wrap", of: (note) => h("span", { class: "mono wrap" }, said(note.data), note.truncated ? " …" : "") },
  ], record.notes.map((note, index) => ({ ...note, index })), { key: (note) => note.index }));
}

/** The latest runs of the task side by side, this one among them. */
function recent(record) {
  const all = [...record.recentExecutions, { ...record, isThis: true }].sort((a, b) => millis(a.createdAt) - millis(b.createdAt));
  const longest = Math.max(1, ...all.map(({ durationMs }) => durationMs ?? 0));
  if (all.length === 1) return empty("No other run of this task is known");
  return h("div", { class: "recent" },
    h("ul", { class: "columns", "aria-label": "Recent runs of this task, the oldest first" }, all.map((run) => {
      const height = `${Math.max(4, ((run.durationMs ?? 0) / longest) * 100)}%`;
      const text = `${run.state}, ${duration(run.durationMs)}${run.isThis ? ", this run" : ""}`;
      return h("li", { key: run.id, class: run.isThis ? "this" : "" }, h("a", { href: jobPath(run.id), title: text, "aria-label": text, "aria-current": run.isThis ? "true" : undefined },
        h("span", { class: `fill ${run.state}`, css: { height } })));
    })),
    h("div", { class: "scale" }, h("span", {}, "oldest"), h("span", {}, `longest ${duration(longest)}`), h("span", {}, "latest")));
}

function workflow(tree, record) {
  return [
    h("ul", { class: "tree", "aria-label": "Workflow" }, tree.data.map((node) => h("li", { key: node.id, class: node.id === record.id ? "this" : "", css: { "--depth": Math.min(node.depth, 12) } },
      badge(node.state),
      node.known ? h("a", { class: "grow cut", href: jobPath(node.id), "aria-current": node.id === record.id ? "true" : undefined }, node.name) : h("span", { class: "muted grow" }, `not known: ${brief(node.id)}`),
      h("span", { class: "away" }, `level ${node.depth + 1}`),
      h("span", { class: "muted number" }, duration(node.durationMs))))),
    tree.truncated ? h("p", { class: "muted" }, "There are more than are shown.") : null,
  ];
}

function raw(events) {
  if (!events) return h("p", { class: "muted" }, "Loading…");
  return [
    events.truncated ? notice("warn", "Not all of them are kept.") : null,
    table("Events", [
      { name: "Position", of: (row) => row.position },
      { name: "Happened", of: (row) => time(row.timestamp) },
      { name: "Log took it", of: (row) => (row.publishedAt ? time(row.publishedAt) : null), wide: true },
      { name: "Event", of: (row) => row.event?.job?.celery?.event ?? row.event?.job?.state ?? row.event?.type ?? row.missing },
      { name: "Verdict", of: (row) => h("span", { class: `word ${row.verdict}` }, row.verdict) },
      { name: "Reason", of: (row) => row.reason, class: "wrap" },
      { name: "As it is", of: (row) => (row.event ? h("details", { class: "json" }, h("summary", {}, "JSON"), code(JSON.stringify(row.event, null, 2), "Copy the event")) : null) },
    ], events.data, { key: (row) => row.position, quiet: true }),
  ];
}
