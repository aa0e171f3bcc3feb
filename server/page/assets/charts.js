// Line charts in cards: plotted by uPlot, or the same numbers as a table.

import { DASH, clock } from "./format.js?v=HASH";

const TABLE_ROWS = 12;
const HEIGHT = 168;
const FONT = '11px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif';

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function element(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

// spec: { lines: [{label, color: "--css-variable", fill, dash}], format(value), axis(value), top }
// axis: as format, if the axis shall be shorter; top: the least upper end of the axis.
// The card has .chart-plot, .chart-legend and .chart-toggle.
export class Chart {
  constructor(card, spec) {
    this.card = card;
    this.spec = spec;
    this.title = card.querySelector("h3").textContent;
    this.plotBox = card.querySelector(".chart-plot");
    this.data = [[], ...spec.lines.map(() => [])];
    this.visible = true;
    this.dirty = false;
    this.values = this.makeLegend(card.querySelector(".chart-legend"));
    this.makeToggle(card.querySelector(".chart-toggle"));
    this.plotBox.setAttribute("role", "img");
    this.table = null;
    this.describe();
    this.makePlot();
    new ResizeObserver(() => this.resize()).observe(this.plotBox);
    new IntersectionObserver(([entry]) => {
      this.visible = entry.isIntersecting;
      if (this.visible && this.dirty) this.draw();
    }).observe(card);
    document.addEventListener("quire-theme", () => this.restyle());
  }

  makeLegend(box) {
    return this.spec.lines.map((line) => {
      const item = element("span", "legend-item");
      const swatch = element("span", line.dash ? "swatch swatch-dash" : "swatch");
      swatch.style.color = `var(${line.color})`;
      const value = element("span", "legend-value", DASH);
      item.append(swatch, element("span", "legend-label", line.label), value);
      box.append(item);
      return value;
    });
  }

  makeToggle(button) {
    button.setAttribute("aria-label", `Show ${this.title} as a table`);
    button.addEventListener("click", () => {
      const asTable = this.table === null;
      button.setAttribute("aria-pressed", String(asTable));
      if (asTable) {
        this.table = element("div", "chart-table");
        this.table.tabIndex = 0;
        this.table.setAttribute("role", "region");
        this.table.setAttribute("aria-label", `${this.title}, table`);
        this.plotBox.after(this.table);
      } else {
        this.table.remove();
        this.table = null;
      }
      this.plotBox.hidden = asTable;
      this.draw();
    });
  }

  options() {
    const axis = { stroke: css("--muted"), font: FONT, ticks: { show: false } };
    const grid = { stroke: css("--grid"), width: 1 };
    const { format, axis: axisFormat = format, top } = this.spec;
    return {
      width: Math.max(120, this.plotBox.clientWidth),
      height: HEIGHT,
      padding: [10, 18, 0, 0],
      legend: { show: false },
      cursor: {
        sync: { key: "quire" },
        drag: { x: false, y: false },
        points: { size: 6 },
      },
      scales: { y: { range: (_, min, max) => [min < 0 ? -niceTop(-min) : 0, niceTop(max, top)] } },
      axes: [
        { ...axis, grid: { show: false }, size: 28, space: 70, values: (_, at) => at.map(timeLabel) },
        { ...axis, grid, size: 56, space: 34, values: (_, at) => at.map((v) => axisFormat(v)) },
      ],
      series: [{}, ...this.spec.lines.map((line) => this.lineOptions(line))],
      hooks: { setCursor: [(plot) => this.showValues(plot.cursor.idx)] },
    };
  }

  lineOptions(line) {
    const color = css(line.color);
    return {
      stroke: color,
      width: 1.75,
      dash: line.dash ? [5, 4] : undefined,
      fill: line.fill ? `${color}24` : undefined,
      points: { show: false },
      spanGaps: false,
    };
  }

  makePlot() {
    this.plotBox.replaceChildren();
    this.plot = new uPlot(this.options(), this.data, this.plotBox);
  }

  restyle() {
    this.plot.destroy();
    this.makePlot();
  }

  resize() {
    const width = this.plotBox.clientWidth;
    if (width > 0 && Math.abs(width - this.plot.width) > 1) {
      this.plot.setSize({ width, height: HEIGHT });
    }
  }

  // data: [times, a column a line]
  update(data) {
    this.data = data;
    this.showValues(this.plot.cursor.idx);
    this.describe();
    if (this.visible) this.draw();
    else this.dirty = true;
  }

  draw() {
    this.dirty = false;
    if (this.table !== null) this.drawTable();
    else this.plot.setData(this.data);
  }

  // At the cursor, else the newest that is known.
  showValues(at) {
    this.values.forEach((node, s) => {
      const column = this.data[s + 1];
      const value = at === null || at === undefined ? lastKnown(column) : column[at];
      const text = this.spec.format(value ?? null);
      if (node.textContent !== text) node.textContent = text;
    });
  }

  describe() {
    const now = this.spec.lines.map(
      (line, s) => `${line.label} ${this.spec.format(lastKnown(this.data[s + 1]))}`,
    );
    const text = `${this.title}: ${now.join(", ")}`;
    if (this.plotBox.getAttribute("aria-label") !== text) {
      this.plotBox.setAttribute("aria-label", text);
    }
  }

  drawTable() {
    const [times] = this.data;
    const stride = Math.max(1, Math.floor((times.length - 1) / (TABLE_ROWS - 1)));
    const table = element("table");
    table.append(element("caption", "sr-only", this.title));
    const head = table.createTHead().insertRow();
    for (const label of ["Time", ...this.spec.lines.map((line) => line.label)]) {
      const cell = element("th", "", label);
      cell.scope = "col";
      head.append(cell);
    }
    const body = table.createTBody();
    for (let i = times.length - 1; i >= 0; i -= stride) {
      const row = body.insertRow();
      row.insertCell().textContent = clock(times[i]);
      for (let s = 1; s < this.data.length; ++s) {
        row.insertCell().textContent = this.spec.format(this.data[s][i]);
      }
    }
    this.table.replaceChildren(table);
  }
}

function lastKnown(column) {
  for (let i = column.length - 1; i >= 0; --i) {
    if (column[i] !== null && column[i] !== undefined) return column[i];
  }
  return null;
}

// 1, 2 or 5 times a power of ten, above the highest value.
function niceTop(max, top) {
  if (!(max > 0)) return top ?? 1;
  const power = 10 ** Math.floor(Math.log10(max));
  const nice = [1, 1.25, 1.5, 2, 3, 4, 5, 7.5, 10].find((n) => n * power >= max * 1.02) ?? 10;
  return top === undefined ? nice * power : Math.min(nice * power, Math.max(top, max));
}

const timeLabel = (at) => clock(at, at % 60 !== 0);
