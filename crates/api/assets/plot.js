// Plots, drawn in SVG. Places are percentages, so that they fit whatever width there is.

import { h } from "./dom.js";
import { axis, count, duration, local } from "./format.js";

const HEIGHT = 132;
const FOOT = 18;
const HEAD = 10;

/** A round number that is at least this. */
function ceiling(value) {
  if (value <= 4) return 4;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].map((step) => step * power).find((step) => step >= value);
}

function frame(label, top, text, starts, span, marks, buckets, read) {
  const lines = [0.5, 1].map((part) => {
    const y = HEAD + (1 - part) * (HEIGHT - HEAD);
    return h("line", { class: "grid", x1: "0", x2: "100%", y1: y, y2: y });
  });
  const scale = [0.5, 1].map((part) => h("text", { class: "axis", x: -8, y: HEAD + (1 - part) * (HEIGHT - HEAD) + 4, "text-anchor": "end" }, text(top * part)));
  const every = Math.max(1, Math.round(starts.length / 6));
  const names = starts.map((start, index) => index % every === 0 && index + every / 2 <= starts.length
    ? h("text", { class: "axis", x: `${(index / starts.length) * 100}%`, y: HEIGHT + FOOT - 4 }, axis(start, span)) : null);
  const base = h("line", { class: "base", x1: "0", x2: "100%", y1: HEIGHT, y2: HEIGHT });
  const width = 100 / starts.length;
  const touch = starts.map((_, index) => h("rect", { class: "touch", x: `${index * width}%`, y: 0, width: `${width}%`, height: HEIGHT }));
  return h("figure", {
    class: "plot", role: "img", "aria-label": label, key: label.split(":")[0],
    on: {
      pointermove: (event) => point(event, buckets, read),
      pointerleave: hide,
    },
  }, h("svg", { width: "100%", height: HEIGHT + FOOT, "aria-hidden": "true" }, lines, marks, base, scale, names, touch));
}

function point(event, buckets, read) {
  const box = event.currentTarget.firstChild.getBoundingClientRect();
  const index = Math.min(buckets.length - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * buckets.length)));
  const tip = tooltip();
  const bucket = buckets[index];
  tip.replaceChildren(
    h("div", { class: "when" }, `${local(bucket.start, { withMillis: false })} – ${local(bucket.end, { withMillis: false })}`),
    ...read(bucket).map(([name, value, kind]) => h("div", {}, h("span", { class: `swatch ${kind}` }), h("span", {}, name), h("b", {}, value))));
  tip.hidden = false;
  const left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8);
  tip.style.setProperty("left", `${Math.max(8, left)}px`);
  tip.style.setProperty("top", `${Math.max(8, event.clientY - tip.offsetHeight - 12)}px`);
}

function tooltip() {
  let tip = document.getElementById("tip");
  if (!tip) {
    tip = h("div", { id: "tip", "aria-hidden": "true" });
    document.body.append(tip);
  }
  return tip;
}

export function hide() {
  tooltip().hidden = true;
}

const spanOf = (buckets) => Date.parse(buckets.at(-1).end) - Date.parse(buckets[0].start);

/** Bars of parts that stand on one another. `series`: `{ name, of, kind }`, the lowest first. */
export function bars(title, buckets, series, { text = count } = {}) {
  const totals = buckets.map((bucket) => series.reduce((sum, { of }) => sum + of(bucket), 0));
  const top = ceiling(Math.max(...totals));
  const width = 100 / buckets.length;
  const marks = buckets.flatMap((bucket, index) => {
    let y = HEIGHT;
    return series.map(({ of, kind }) => {
      const value = of(bucket);
      if (!value) return null;
      // What is there is seen, however little it is.
      const height = Math.max(1.5, (value / top) * (HEIGHT - HEAD));
      y -= height;
      return h("rect", { class: `bar ${kind}`, x: `${index * width + width * 0.1}%`, y, width: `${width * 0.8}%`, height });
    });
  });
  const sums = series.map(({ name, of }) => `${text(buckets.reduce((sum, bucket) => sum + of(bucket), 0))} ${name}`);
  const label = `${title}: ${sums.join(", ")}.`;
  return frame(label, top, text, buckets.map((bucket) => Date.parse(bucket.start)), spanOf(buckets), marks, buckets,
    (bucket) => [...series].reverse().map(({ name, of, kind }) => [name, text(of(bucket)), kind]));
}

/** Lines; where nothing is known there is a gap. */
export function lines(title, buckets, series, { text = duration } = {}) {
  const values = buckets.flatMap((bucket) => series.map(({ of }) => of(bucket))).filter((value) => value !== null);
  const top = ceiling(values.length ? Math.max(...values) : 1);
  const x = (index) => ((index + 0.5) / buckets.length) * 100;
  const y = (value) => HEIGHT - (value / top) * (HEIGHT - HEAD);
  const marks = series.flatMap(({ of, kind }) => buckets.flatMap((bucket, index) => {
    const value = of(bucket);
    if (value === null) return [];
    const next = buckets[index + 1] && of(buckets[index + 1]);
    const dot = h("circle", { class: `point ${kind}`, cx: `${x(index)}%`, cy: y(value), r: 2 });
    if (next === null || next === undefined) return [dot];
    return [h("line", { class: `stroke ${kind}`, x1: `${x(index)}%`, y1: y(value), x2: `${x(index + 1)}%`, y2: y(next) }), dot];
  }));
  const highest = series.map(({ name, of }) => {
    const known = buckets.map(of).filter((value) => value !== null);
    return `${name} at most ${known.length ? text(Math.max(...known)) : "unknown"}`;
  });
  return frame(`${title}: ${highest.join(", ")}.`, top, text, buckets.map((bucket) => Date.parse(bucket.start)), spanOf(buckets), marks,
    buckets, (bucket) => series.map(({ name, of, kind }) => [name, of(bucket) === null ? "–" : text(of(bucket)), kind]));
}

export function legend(series) {
  return h("ul", { class: "legend", "aria-hidden": "true" }, series.map(({ name, kind }) => h("li", {}, h("span", { class: `swatch ${kind}` }), name)));
}

/** Small bars without axes. */
export function spark(label, values, kinds = ["failed"]) {
  const totals = values.map((parts) => parts.reduce((sum, part) => sum + part, 0));
  const top = Math.max(1, ...totals);
  const width = 100 / values.length;
  return h("svg", { class: "spark", role: "img", "aria-label": label, height: 22 }, values.flatMap((parts, index) => {
    let y = 22;
    return parts.map((part, which) => {
      if (!part) return null;
      const height = Math.max(1.5, (part / top) * 21);
      y -= height;
      return h("rect", { class: `bar ${kinds[which]}`, x: `${index * width + width * 0.12}%`, y, width: `${width * 0.76}%`, height });
    });
  }), h("line", { class: "base", x1: "0", x2: "100%", y1: 21.5, y2: 21.5 }));
}

/** How jobs ended in each part of a range: green, red, both, or nothing. */
export function health(label, buckets) {
  const width = 100 / buckets.length;
  return h("svg", { class: "health", role: "img", "aria-label": label, height: 18 }, buckets.map((bucket, index) => {
    const all = bucket.succeeded + bucket.failed;
    const place = { x: `${index * width + width * 0.1}%`, width: `${width * 0.8}%`, rx: 1.5 };
    const title = h("title", {}, `${local(bucket.start, { withMillis: false })}: ${count(bucket.succeeded)} completed, ${count(bucket.failed)} failed`);
    if (!all) return h("rect", { class: "none", ...place, y: 0, height: 18 }, title);
    const bad = bucket.failed ? Math.max(3, (bucket.failed / all) * 18) : 0;
    return h("g", {}, h("rect", { class: "bar completed", ...place, y: 0, height: 18 }), bad ? h("rect", { class: "bar failed", ...place, y: 18 - bad, height: bad }) : null, title);
  }));
}
