// Alert rules, the incidents of them, and whether their notices arrived.

import { get, path, post } from "./api.js";
import { h } from "./dom.js";
import { ago, count, duration, percent, time } from "./format.js";
import { changing, refreshing } from "./page.js";
import { code, empty, notice, panel, table } from "./ui.js";

const KINDS = {
  "failure-rate": "jobs that failed", "oldest-queued": "longest wait for a worker", lost: "lost jobs", stuck: "stuck jobs", overdue: "overdue tasks",
  "source-down": "brokers not heard", "coverage-gap": "time not listened", lag: "views behind the log", disk: "disk that is used",
};
const STATES = {
  firing: "There is an incident.", pending: "The value is at the limit, and not for long enough.", cooling: "The last incident ended so short a time ago that none may begin.",
  quiet: "Nothing is the matter.", unknown: "Nothing can be told.",
};
const WHY = { resolved: "over", ruleRemoved: "the rule is gone", ruleChanged: "the rule was changed" };
const FATES = { waiting: "waits", delivered: "delivered", givenUp: "given up" };
const EXAMPLE = `[alerts.webhook.ops]
url = "https://hooks.example.com/services/…"

[[alerts.rule]]
name = "payments-fail"
kind = "failure-rate"
task = "shop.pay*"
trigger = "20%"
to = ["ops"]`;

/** A value of a rule, for people. */
export function amount(unit, value) {
  if (value === null || value === undefined) return null;
  return { share: percent, seconds: (seconds) => duration(seconds * 1000), count }[unit]?.(value) ?? String(value);
}

/** The incidents that last, and what they are of. */
export function open(app, rules) {
  return rules.filter(({ incident }) => incident).map(({ name, unit, value, incident }) => h("li", { key: incident.id },
    h("span", { class: "badge failed" }, h("span", { class: "dot" }), "firing"),
    h("div", { class: "grow" }, h("p", {}, h("b", {}, name), h("span", { class: "muted" }, " began ", ago(incident.startedAt))), h("p", { class: "wrap" }, incident.summary),
      incident.subjects.length > 1 ? h("p", { class: "muted" }, incident.subjects.map((subject) => `${subject.name} ${amount(unit, subject.value)}`).join(", ")) : null),
    value === null ? null : h("span", { class: "muted" }, `now ${amount(unit, value)}`)));
}

export default function alerts(root, app) {
  const changes = changing(() => page);
  let tested = null;
  const test = (name) => changes.make(async () => {
    tested = null;
    tested = { name, ...await post(`${path("alerts", name)}/test`) };
  });
  const button = (name) => (app.isAdmin() ? h("button", { type: "button", class: "button", disabled: changes.busy, "aria-label": `Send a test of ${name}`, on: { click: () => test(name) } }, "Send a test") : null);
  const view = ({ rules, incidents, webhooks, deliveries }) => {
    const firing = open(app, rules);
    return h("div", { class: "page", key: "alerts" },
      h("div", { class: "head" }, h("h1", {}, "Alerts"), h("span", { class: "note" }, rules.length ? `${count(rules.length)} ${rules.length === 1 ? "rule" : "rules"}` : "")),
      changes.failure ? notice("bad", changes.failure) : null,
      tested ? cameOf(tested) : null,
      rules.length ? null : panel("No rule is set", h("p", {}, "Rules stand in the server’s configuration file, and are taken over when it is told to read it again (SIGHUP):"), code(EXAMPLE, "Copy the example"),
        h("p", { class: "muted" }, "“forebay config example” prints all that can be said there.")),
      firing.length ? panel("Open incidents", { class: "failed", note: count(firing.length) }, h("ul", { class: "cards" }, firing)) : null,
      rules.length ? panel("Rules", ruled(rules, app.isAdmin() ? button : null)) : null,
      webhooks.length ? panel("Webhooks", table("Webhooks", [
        { name: "Name", of: (one) => one.name },
        { name: "Address", wide: true, of: (one) => h("span", { class: "mono" }, one.urlMasked) },
        { name: "Format", of: (one) => [one.format, one.signed ? h("span", { class: "muted" }, ", signed") : null] },
        { name: "Waiting", number: true, of: (one) => h("span", { class: one.waiting ? "text-bad" : "" }, count(one.waiting)) },
        ...(app.isAdmin() ? [{ name: h("span", { class: "away" }, "Test"), number: true, of: (one) => button(one.name) }] : []),
      ], webhooks, { key: (one) => one.name })) : null,
      rules.length || deliveries.length ? panel("Notices", { note: "the latest" }, deliveries.length ? table("Notices", [
        { name: "Rule", of: (one) => one.rule },
        { name: "Told", of: (one) => one.event },
        { name: "To", of: (one) => one.webhook },
        { name: "Since", of: (one) => time(one.at, { withMillis: false }), wide: true },
        { name: "What became of it", class: "wrap", of: (one) => [h("span", { class: `word notice-${one.state}` }, h("span", { class: "dot" }), FATES[one.state] ?? one.state),
          h("span", { class: "muted" }, [one.attempts > 1 ? `${count(one.attempts)} attempts` : "", one.lastError ?? ""].filter(Boolean).join(": "))] },
      ], deliveries, { key: (one) => one.id }) : empty("Nobody was told anything yet")) : null,
      incidents.length ? panel("Incidents that are over", { note: "the latest" }, table("Incidents that are over", [
        { name: "Rule", of: (one) => one.rule },
        { name: "Began", of: (one) => time(one.startedAt, { withMillis: false }) },
        { name: "Lasted", number: true, of: (one) => duration(Date.parse(one.resolvedAt) - Date.parse(one.startedAt)) },
        { name: "What", class: "wrap", of: (one) => one.summary },
        { name: "Ended", wide: true, of: (one) => WHY[one.why] ?? one.why },
      ], incidents, { key: (one) => one.id })) : null);
  };
  const page = refreshing(root, { load: (signal) => get("/api/alerts", {}, signal), view, stream: { types: "worker" }, wants: () => false, every: 3000 });
  return { ...page, changed: page.ask };
}

function ruled(rules, button) {
  return table("Rules", [
    { name: "Rule", of: (rule) => h("b", {}, rule.name) },
    { name: "State", of: (rule) => h("span", { class: `word alert-${rule.state}`, title: rule.unknown ?? STATES[rule.state] }, h("span", { class: "dot" }), rule.state) },
    { name: "Measures", class: "wrap", wide: true, of: (rule) => [KINDS[rule.kind] ?? rule.kind, h("span", { class: "muted" }, within(rule))] },
    { name: "Now", number: true, of: (rule) => (rule.value === null ? h("span", { class: "muted", title: rule.unknown ?? undefined }, "unknown") : h("b", { class: rule.incident ? "text-bad" : "" }, amount(rule.unit, rule.value))) },
    { name: "Begins at", number: true, of: (rule) => [amount(rule.unit, rule.trigger), rule.forSeconds ? h("span", { class: "muted" }, ` for ${duration(rule.forSeconds * 1000)}`) : null] },
    { name: "Ends at", number: true, wide: true, of: (rule) => amount(rule.unit, rule.resolve) },
    { name: "Tells", wide: true, of: (rule) => (rule.to.length ? rule.to.join(", ") : h("span", { class: "muted" }, "nobody")) },
    ...(button ? [{ name: h("span", { class: "away" }, "Test"), number: true, wide: true, of: (rule) => (rule.to.length ? button(rule.name) : null) }] : []),
  ], rules, { key: (rule) => rule.name });
}

/** Of what a rule measures, where it is not all. */
function within(rule) {
  const of = ["task", "queue", "connection"].filter((name) => rule[name] !== "*").map((name) => `${name} ${rule[name]}`);
  if (["failure-rate", "coverage-gap"].includes(rule.kind)) of.push(`last ${duration(rule.windowSeconds * 1000)}`);
  return of.length ? ` · ${of.join(", ")}` : "";
}

function cameOf({ name, data }) {
  if (!data.length) return notice("warn", `${name} tells nobody: its rule names no webhook.`);
  return h("div", { class: "notices", key: "tested" }, data.map(({ webhook, delivered, error }) => delivered
    ? notice("good", h("p", {}, h("b", {}, webhook), " took the test of ", h("b", {}, name), "."))
    : notice("bad", h("b", {}, `${webhook} did not take the test: `), error ?? "it does not say why")));
}
