// Why a job failed, readably.

import { h } from "./dom.js";
import { count } from "./format.js";
import { named, parse } from "./traceback.js";
import { copy, panel } from "./ui.js";

export function errorPanel(record) {
  const errors = record.stacktrace ? parse(record.stacktrace) : null;
  const { kind, says } = named(record.error ?? "");
  const heading = h("div", { class: "error" }, kind ? h("b", {}, kind) : null, h("p", { class: "wrap", tabindex: says.length > 600 ? "0" : undefined }, says));
  return panel("Error", { class: "failed", side: copy([record.error, record.stacktrace].filter(Boolean).join("\n\n"), "Copy the error with its traceback") }, record.error ? heading : null,
    errors ? errors.map((error, index) => told(error, index, record.error ? 0 : -1)) : null,
    record.stacktrace ? h("details", { class: "whole" }, h("summary", {}, errors ? "The whole traceback, as it came" : "Traceback"), h("pre", { tabindex: "0" }, record.stacktrace)) : null);
}

/** One error of a chain: the frames of the user's own code first, from where it happened outwards. */
function told(error, index, shownAbove) {
  const own = error.frames.filter(({ isLibrary }) => !isLibrary);
  const library = error.frames.filter(({ isLibrary }) => isLibrary);
  const { kind, says } = named(error.said);
  return h("div", { class: "chain", key: index },
    index > shownAbove ? h("div", { class: "cause" }, h("span", { class: "muted" }, error.how === "caused" ? "Caused by " : "While handling "), h("b", {}, kind ?? ""), says ? ` ${says}` : "") : null,
    own.length ? h("ol", { class: "frames", "aria-label": "Frames of your code, the innermost first" }, own.map(frame)) : h("p", { class: "muted" }, "No frame of this is of your own code."),
    library.length ? h("details", { class: "library" }, h("summary", {}, `${count(library.length)} ${library.length === 1 ? "frame" : "frames"} of libraries`),
      h("ol", { class: "frames", "aria-label": "Frames of libraries, the innermost first" }, library.map(frame))) : null);
}

function frame({ file, line, of, code, isLibrary }, index) {
  const short = file.replace(/^.*\/(site|dist)-packages\//, "").replace(/^.*\/lib\/(python[\d.]+)\//, "$1/");
  return h("li", { class: isLibrary ? "lib" : "own", key: index },
    h("div", { class: "where" }, h("span", { class: "file", title: file }, short), h("span", { class: "line" }, `:${line}`), of ? h("span", { class: "of" }, ` in ${of}`) : null),
    code.length ? h("pre", { tabindex: "0" }, code.join("\n")) : null);
}
