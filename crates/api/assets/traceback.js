// Tracebacks of Python, taken apart: whoever reads one wants the frames of their own code, and what went wrong.

const FRAME = /^\s*File "(.+)", line (\d+)(?:, in (.*))?$/;
const LIBRARY = /(\/site-packages\/|\/dist-packages\/|\/lib\/python\d|\/lib64\/python\d|^<frozen |\/(celery|billiard|kombu|vine|amqp)\/)/;
const BETWEEN = /^(The above exception was the direct cause|During handling of the above exception)/;

/**
 * The errors of a traceback, the last one first: `{ said, how, frames }`, the frames from the innermost out, each
 * `{ file, line, of, code, isLibrary }`. Null where the text is no such thing.
 */
export function parse(text) {
  const errors = [];
  let current = null;
  const begin = () => {
    current = { frames: [], said: [], how: null };
    errors.push(current);
  };
  for (const line of text.split("\n")) {
    if (line.startsWith("Traceback (most recent call last)")) {
      begin();
    } else if (BETWEEN.test(line)) {
      // How the error before led to the one that follows.
      if (current) current.how = line.startsWith("The above") ? "caused" : "came before";
    } else if (current) {
      const frame = line.match(FRAME);
      const last = current.frames.at(-1);
      if (frame) current.frames.push({ file: frame[1], line: Number(frame[2]), of: frame[3] ?? "", code: [], isLibrary: LIBRARY.test(frame[1]) });
      else if (/^\s/.test(line) && last && !current.said.length) last.code.push(line.replace(/^ {4}/, ""));
      else if (line.trim() || current.said.length) current.said.push(line);
    }
  }
  if (!errors.some(({ frames }) => frames.length)) return null;
  return errors.reverse().map(({ frames, said, how }) => ({ frames: frames.reverse(), said: said.join("\n").trim(), how }));
}

/** The class of an error and what it says: of `repr`, as Celery sends it, and of the last line of a traceback. */
export function named(error) {
  const repr = error.match(/^([A-Za-z_][\w.]*)\(([\s\S]*)\)$/);
  if (repr) {
    const quoted = repr[2].match(/^(['"])([\s\S]*)\1,?$/);
    return { kind: repr[1], says: quoted ? quoted[2].replace(/\\(['"\\])/g, "$1").replace(/\\n/g, "\n") : repr[2] };
  }
  const line = error.match(/^([A-Za-z_][\w.]*(?:Error|Exception|Warning|Exit|Interrupt|Lost|Reject|Revoked|Timeout\w*)\w*): ([\s\S]*)$/);
  return line ? { kind: line[1], says: line[2] } : { kind: null, says: error };
}
