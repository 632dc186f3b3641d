// Numbers and times for people: in the viewer's zone, with UTC for who points at it.

import { h } from "./dom.js";

const whole = new Intl.NumberFormat();
const short = new Intl.NumberFormat(undefined, { notation: "compact", maximumFractionDigits: 1 });
const two = (number) => String(number).padStart(2, "0");

export const NONE = "–";

export function count(number) {
  if (number === null || number === undefined) return NONE;
  return Math.abs(number) < 100000 ? whole.format(number) : short.format(number);
}

export const exact = (number) => whole.format(number);

export function percent(part) {
  if (part === null || part === undefined) return NONE;
  const value = part * 100;
  if (value === 0) return "0 %";
  if (value < 0.1) return "< 0.1 %";
  return `${value < 10 ? value.toFixed(1) : value.toFixed(0)} %`;
}

/** So many jobs per second, in the unit that makes a readable number. */
export function rate(perSecond) {
  if (perSecond === null || perSecond === undefined) return NONE;
  if (perSecond >= 1) return `${perSecond < 10 ? perSecond.toFixed(1) : whole.format(Math.round(perSecond))}/s`;
  const perMinute = perSecond * 60;
  if (perMinute >= 1) return `${perMinute < 10 ? perMinute.toFixed(1) : Math.round(perMinute)}/min`;
  const perHour = perSecond * 3600;
  return perHour === 0 ? "0" : perHour < 0.1 ? "< 0.1/h" : `${perHour < 10 ? perHour.toFixed(1) : Math.round(perHour)}/h`;
}

export function bytes(number) {
  if (number === null || number === undefined) return NONE;
  const units = ["B", "KB", "MB", "GB", "TB"];
  let unit = 0;
  while (number >= 1000 && unit < units.length - 1) {
    number /= 1000;
    unit += 1;
  }
  return `${number < 10 && unit > 0 ? number.toFixed(1) : Math.round(number)} ${units[unit]}`;
}

export function duration(ms) {
  if (ms === null || ms === undefined) return NONE;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 10000) return `${(ms / 1000).toFixed(2)} s`;
  if (ms < 60000) return `${(ms / 1000).toFixed(1).replace(/\.0$/, "")} s`;
  const seconds = Math.round(ms / 1000);
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min${seconds % 60 ? ` ${two(seconds % 60)} s` : ""}`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 48 * 60) return `${Math.floor(minutes / 60)} h${minutes % 60 ? ` ${two(minutes % 60)} min` : ""}`;
  return `${Math.round(minutes / 60 / 24)} days`;
}

export const millis = (text) => (text ? Date.parse(text) : null);

export function utc(text) {
  return `${new Date(text).toISOString().replace("T", " ").replace("Z", "")} UTC`;
}

function day(date) {
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
}

function clock(date, withMillis) {
  const base = `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
  return withMillis ? `${base}.${String(date.getMilliseconds()).padStart(3, "0")}` : base;
}

/** The exact time in the viewer's zone; without the day where it is today. */
export function local(text, { withMillis = true, withDay = false } = {}) {
  const date = new Date(text);
  const shown = clock(date, withMillis);
  return withDay || day(date) !== day(new Date()) ? `${day(date)} ${shown}` : shown;
}

export function time(text, options) {
  if (!text) return NONE;
  return h("time", { datetime: text, title: utc(text) }, local(text, options));
}

export function since(text, now = Date.now()) {
  const ms = now - Date.parse(text);
  const away = Math.abs(ms);
  if (away < 1500) return "now";
  const seconds = Math.round(away / 1000);
  const say =
    seconds < 60 ? `${seconds} s`
    : seconds < 3600 ? `${Math.floor(seconds / 60)} min`
    : seconds < 48 * 3600 ? `${Math.floor(seconds / 3600)} h`
    : `${Math.floor(seconds / 86400)} d`;
  return ms < 0 ? `in ${say}` : `${say} ago`;
}

/** How long ago, kept up to date. */
export function ago(text) {
  if (!text) return NONE;
  const title = `${local(text, { withDay: true })} · ${utc(text)}`;
  return h("time", { class: "ago", datetime: text, title }, since(text));
}

/** Brings what `ago` made up to date. */
export function tick() {
  for (const node of document.querySelectorAll("time.ago")) {
    const text = since(node.dateTime);
    if (node.textContent !== text) node.textContent = text;
  }
}

/** Of a time axis: as little as tells one from the next. */
export function axis(ms, span) {
  const date = new Date(ms);
  if (span > 3 * 86400e3) return `${two(date.getDate())}.${two(date.getMonth() + 1)}.`;
  return span < 600e3 ? clock(date) : `${two(date.getHours())}:${two(date.getMinutes())}`;
}

/** The beginning of an id: enough to tell it from its neighbours. */
export function brief(id, length = 8) {
  return id.length > length + 2 ? `${id.slice(0, length)}…` : id;
}
