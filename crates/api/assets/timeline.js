// The life of a job to scale: what it waited for, when it ran, and what lay between attempts.

import { h } from "./dom.js";
import { duration, local, millis } from "./format.js";
import { ENDED } from "./ui.js";

const LANE = 26;

/** Pieces of time in one state, up to the end of the job or now. */
function pieces(record, now) {
  const steps = record.stateHistory;
  return steps.map((step, index) => {
    const next = steps[index + 1];
    const isEnd = ENDED.has(step.state) && !next;
    return { state: step.state, from: millis(step.timestamp), to: next ? millis(next.timestamp) : isEnd ? millis(step.timestamp) : now };
  });
}

export function timeline(record) {
  const now = Date.now();
  const states = pieces(record, now);
  const runs = record.executions.filter(({ startedAt }) => startedAt);
  const times = [...states.flatMap(({ from, to }) => [from, to]), ...runs.flatMap((run) => [millis(run.startedAt), millis(run.completedAt ?? run.startedAt)])];
  const begin = Math.min(...times);
  const scheduled = millis(record.scheduledFor);
  const end = Math.max(...times, scheduled && !ENDED.has(record.state) ? scheduled : 0);
  const span = Math.max(1, end - begin);
  const x = (at) => ((at - begin) / span) * 100;
  const lanes = 1 + runs.length;
  const height = lanes * LANE + 22;
  const bar = (from, to, kind, y, text, tall = 14) => {
    const width = Math.max(0, x(to) - x(from));
    return h("g", {}, h("title", {}, text),
      h("rect", { class: `piece ${kind}`, x: `${x(from)}%`, y, width: `${width}%`, height: tall, rx: 2 }),
      // However short it was, it is seen.
      h("rect", { class: `piece ${kind}`, x: `${Math.min(x(from), 99.7)}%`, y, width: 3, height: tall, rx: 1.5 }));
  };
  const words = (name, from, to) => `${name}: ${duration(to - from)}, ${local(from)} – ${local(to)}`;
  const ticks = (span < 8 ? [0, 1] : [0, 0.25, 0.5, 0.75, 1]).map((part) => h("g", { class: part % 0.5 ? "minor" : "" },
    h("line", { class: "grid", x1: `${part * 100}%`, x2: `${part * 100}%`, y1: 0, y2: lanes * LANE }),
    h("text", { class: "axis", x: `${part * 100}%`, y: height - 4, "text-anchor": part === 0 ? "start" : part === 1 ? "end" : "middle" }, part === 0 ? local(begin, { withMillis: span < 60000 }) : `+${duration(span * part)}`)));
  const label = `Timeline: ${states.map(({ state, from, to }) => `${state} ${to > from ? duration(to - from) : ""}`.trim()).join(", ")}.`;
  const names = [h("span", {}, "State"), ...runs.map((run, index) => h("span", { key: index }, `Run ${index + 1}`, runs.some(({ attempt }) => attempt !== run.attempt) ? h("small", {}, ` attempt ${run.attempt}`) : null))];
  return h("div", { class: "timeline" },
    h("div", { class: "lanes", "aria-hidden": "true" }, names),
    h("div", { role: "img", "aria-label": label, class: "drawn" }, h("svg", { width: "100%", height, "aria-hidden": "true" }, ticks,
      states.map(({ state, from, to }) => bar(from, to, state, 6, words(state, from, to))),
      runs.map((run, index) => {
        const [from, to] = [millis(run.startedAt), run.completedAt ? millis(run.completedAt) : run.outcome ? millis(run.startedAt) : now];
        return bar(from, to, run.outcome ?? "active", (index + 1) * LANE + 6, words(`Run ${index + 1}, ${run.outcome ?? "running"}`, from, to));
      }))),
    h("ul", { class: "legend", "aria-hidden": "true" }, [...new Set(states.map(({ state }) => state))].map((state) => h("li", { key: state }, h("span", { class: `swatch ${state}` }), state,
      h("b", {}, total(states, state))))));
}

function total(states, wanted) {
  const sum = states.filter(({ state }) => state === wanted).reduce((all, { from, to }) => all + to - from, 0);
  return ENDED.has(wanted) && sum === 0 ? "" : ` ${duration(sum)}`;
}
