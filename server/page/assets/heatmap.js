// Keys read by each head of each layer, as a share of what dense attention reads.

import * as format from "./format.js?v=HASH";
import { element } from "./shell.js?v=HASH";
import { svg } from "./timeline.js?v=HASH";

const WIDTH = 1000;
const LEFT = 54;
const BOTTOM = 24;

export function sharesOf({ layers, heads, columns, dense_columns: dense }) {
  return Array.from({ length: layers }, (_, layer) =>
    columns.slice(layer * heads, (layer + 1) * heads).map((c) => (dense > 0 ? c / dense : 0)),
  );
}

// From --heat-0 by --heat-1 to --heat-2.
function color(share) {
  const [from, to, at] =
    share < 0.5 ? ["--heat-0", "--heat-1", 2 * share] : ["--heat-1", "--heat-2", 2 * share - 1];
  return `color-mix(in srgb, var(${to}) ${(100 * at).toFixed(1)}%, var(${from}))`;
}

// shares: [layers][heads]. Layers go from left to right, heads from top to bottom.
export function heatmap(shares) {
  const layers = shares.length;
  const heads = shares[0].length;
  const cell = (WIDTH - LEFT) / layers;
  const tall = Math.max(14, Math.min(34, 340 / heads));
  const highest = Math.max(...shares.flat());
  const height = heads * tall + BOTTOM;
  const picture = svg("svg", {
    viewBox: `0 0 ${WIDTH} ${height}`,
    role: "img",
    "aria-label": descriptionOf(shares),
  });
  shares.forEach((row, layer) => {
    row.forEach((share, head) => {
      const rect = svg("rect", { x: LEFT + layer * cell, y: head * tall, width: cell, height: tall, rx: 3 });
      rect.style.fill = color(highest > 0 ? share / highest : 0);
      rect.append(svg("title", {}, `Layer ${layer + 1}, head ${head + 1}: ${format.percent(share)}`));
      picture.append(rect);
    });
    const every = Math.ceil(layers / 16);
    if (layer % every === 0) {
      const at = { x: LEFT + (layer + 0.5) * cell, y: height - 8, "text-anchor": "middle" };
      picture.append(svg("text", at, String(layer + 1)));
    }
  });
  for (let head = 0; head < heads; head += Math.ceil(heads / 12)) {
    const at = { x: LEFT - 10, y: (head + 0.5) * tall + 4, "text-anchor": "end" };
    picture.append(svg("text", at, `head ${head + 1}`));
  }
  const box = element("div", "heat");
  box.append(picture, scale(highest));
  return box;
}

function scale(highest) {
  const row = element("div", "heat-scale");
  row.append("0 %", element("span", "heat-ramp"), format.percent(highest), " of dense attention's keys");
  return row;
}

export function descriptionOf(shares) {
  const means = shares.map((row) => row.reduce((a, b) => a + b, 0) / row.length);
  const at = (value) => means.indexOf(value) + 1;
  const most = Math.max(...means);
  const least = Math.min(...means);
  return (
    `Layer ${at(most)} reads most, ${format.percent(most)} of its keys; ` +
    `layer ${at(least)} least, ${format.percent(least)}.`
  );
}

export function heatTable(shares) {
  const box = element("div", "heat-table");
  box.tabIndex = 0;
  box.setAttribute("role", "region");
  box.setAttribute("aria-label", "Keys read, by layer and head, table");
  const table = element("table");
  const head = table.createTHead().insertRow();
  const names = ["Layer", ...shares[0].map((_, i) => `Head ${i + 1}`)];
  for (const name of names) {
    const cell = element("th", "", name);
    cell.scope = "col";
    head.append(cell);
  }
  const body = table.createTBody();
  shares.forEach((row, layer) => {
    const line = body.insertRow();
    const name = element("th", "", String(layer + 1));
    name.scope = "row";
    line.append(name);
    for (const share of row) line.insertCell().textContent = format.percent(share);
  });
  box.append(table);
  return box;
}
