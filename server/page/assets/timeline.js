// Where a request's time went: a bar of its phases and a line of its progress.

import * as format from "./format.js?v=HASH";
import { element } from "./shell.js?v=HASH";

const SVG = "http://www.w3.org/2000/svg";
export function svg(tag, attributes, text) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

export function phasesOf(request) {
  const phases = [
    ["queue", "Waiting", request.queue_seconds],
    ["prefill", "Reading", request.prefill_seconds],
    ["decode", "Writing", request.decode_seconds],
  ];
  const known = phases.reduce((sum, [, , seconds]) => sum + seconds, 0);
  phases.push(["rest", "Rest", Math.max(0, request.seconds - known)]);
  return phases.filter(([, , seconds]) => seconds > 0);
}

export function phaseBar(request) {
  return phasesOf(request).map(([name, label, seconds]) => {
    const share = seconds / request.seconds;
    const bar = element("div", `phase phase-${name}`, share > 0.06 ? label : "");
    bar.style.flexGrow = share;
    bar.title = `${label}: ${format.seconds(seconds)}`;
    if (bar.textContent === "") bar.style.padding = "0";
    return bar;
  });
}

// The points of each run of one phase and pass.
function runsOf(trace) {
  const runs = [];
  for (const point of trace) {
    const run = runs[runs.length - 1];
    if (run !== undefined && run.phase === point.phase && run.pass === point.pass) {
      run.points.push(point);
    } else {
      runs.push({ phase: point.phase, pass: point.pass, points: [point] });
    }
  }
  return runs;
}

function describe(request, runs) {
  const passes = Math.max(0, ...runs.map((run) => run.pass));
  const phases = phasesOf(request).map(([, label, s]) => `${label} ${format.seconds(s)}`);
  return `${phases.join(", ")}${passes > 1 ? `, in ${passes} passes` : ""}`;
}

const WIDTH = 1000;
const HEIGHT = 130;
const BOTTOM = 4;
const TOP = 12;

// null: there is nothing to draw.
export function timeline(request) {
  if (request.trace.length < 2) return null;
  const runs = runsOf(request.trace);
  const x = (seconds) => (WIDTH * seconds) / request.seconds;
  const y = (share) => HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * share;
  const picture = svg("svg", {
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
    preserveAspectRatio: "none",
    role: "img",
    "aria-label": `Progress: ${describe(request, runs)}`,
  });
  for (const share of [0, 0.5, 1]) {
    picture.append(svg("line", { class: "tl-grid", x1: 0, x2: WIDTH, y1: y(share), y2: y(share) }));
  }
  const first = request.time_to_first_token_seconds;
  if (first !== null) {
    picture.append(svg("line", { class: "tl-first", x1: x(first), x2: x(first), y1: TOP, y2: y(0) }));
  }
  let last = 0;
  for (const { phase, points } of runs) {
    const path = points.map((p) => `L${x(p.seconds).toFixed(1)} ${y(doneShare(p, points)).toFixed(1)}`);
    const begin = `M${x(last).toFixed(1)} ${y(0).toFixed(1)}`;
    picture.append(
      svg("path", { class: `tl-line tl-${phase}`, d: begin + path.join(""), "vector-effect": "non-scaling-stroke" }),
    );
    last = points[points.length - 1].seconds;
  }
  return picture;
}

// Of an answer that ended before its limit, the last token is the end.
function doneShare(point, points) {
  const end = point.phase === "decode" ? points[points.length - 1].done : point.total;
  return end > 0 ? Math.min(1, point.done / end) : 0;
}

// Labels stand beside the picture, which is stretched.
export function axis(request) {
  const row = element("div", "tl-axis");
  for (const share of [0, 0.25, 0.5, 0.75, 1]) {
    row.append(element("span", "", format.seconds(share * request.seconds)));
  }
  return row;
}
