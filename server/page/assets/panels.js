// The tiles, bars and totals of the overview: single numbers, written once a second.

import * as format from "./format.js?v=HASH";
import { byId, element, setMetric, setText } from "./shell.js?v=HASH";

const WINDOW = 60; // seconds: "last minute"

const EXECUTED = "quire_attention_flops_total";
const DENSE = "quire_attention_flops_dense_equivalent_total";
const own = (basis) => `quire_request_device_seconds_total{basis="${basis}"}`;
const dense = (basis) => `quire_request_dense_device_seconds_total{basis="${basis}"}`;
const MISMATCHES = "quire_shadow_top1_mismatch_total";
const COMPARED = "quire_shadow_compared_tokens_total";
const SAMPLES = "quire_shadow_samples_total";

// 1 - part / whole; null without a whole.
const saving = (part, whole) => (part !== null && whole > 0 ? 1 - part / whole : null);
const plural = (n, one, many = `${one}s`) => `${format.whole(n)} ${n === 1 ? one : many}`;

const part = (tile, name) => byId(tile).querySelector(`[data-part="${name}"]`);

function setBig(node, text, expression, value) {
  setMetric(node, text, expression, value);
  node.classList.toggle("none", value === null);
}

// Text with numbers in it: strings, and [text, expression, value] for those that are checked.
function setLine(node, ...pieces) {
  const key = JSON.stringify(pieces);
  if (node.dataset.key === key) return;
  node.dataset.key = key;
  node.replaceChildren(
    ...pieces.map((piece) => {
      if (!Array.isArray(piece)) return piece;
      const span = element("span");
      setMetric(span, ...piece);
      return span;
    }),
  );
}

function showWork(store) {
  const executed = store.latest(EXECUTED);
  const equivalent = store.latest(DENSE);
  const saved = saving(executed, equivalent);
  setBig(part("tile-work", "big"), format.percent(saved), `1 - ${EXECUTED} / ${DENSE}`, saved);
  const recent = saving(store.recent(EXECUTED, WINDOW), store.recent(DENSE, WINDOW));
  setLine(
    part("tile-work", "recent"),
    recent === null ? "idle in the last minute" : `${format.percent(recent)} in the last minute`,
  );
  if (saved === null) return setLine(part("tile-work", "detail"), "No attention computed yet.");
  return setLine(
    part("tile-work", "detail"),
    "Since the start ",
    [format.compact(executed, "FLOP"), EXECUTED, executed],
    " of ",
    [format.compact(equivalent, "FLOP"), DENSE, equivalent],
    ", choosing and audits included.",
  );
}

function showDeviceTime(store, tile, basis, none) {
  const took = store.latest(own(basis));
  const would = store.latest(dense(basis));
  const saved = saving(took, would);
  const expression = `1 - ${own(basis)} / ${dense(basis)}`;
  setBig(part(tile, "big"), format.percent(saved), expression, saved);
  if (saved === null) {
    setLine(part(tile, "recent"), "");
    return setLine(part(tile, "detail"), none);
  }
  setLine(
    part(tile, "recent"),
    Math.abs(would / took - 1) < 0.005
      ? "as long as dense takes"
      : `${format.times(would / took)} as fast as dense`,
  );
  return setLine(
    part(tile, "detail"),
    ...(basis === "measured"
      ? [[plural(store.latest(SAMPLES), "request"), SAMPLES, store.latest(SAMPLES)], " run twice: "]
      : ["All other requests: "]),
    [format.seconds(took), own(basis), took],
    basis === "measured" ? ", densely " : ", densely it would be ",
    [format.seconds(would), dense(basis), would],
    ".",
  );
}

function showMoney(store, price) {
  const tile = "tile-money";
  for (const [name, prefix] of [
    ["measured", "quire_measured"],
    ["modelled", "quire_estimated"],
  ]) {
    const plus = `${prefix}_savings_usd_total`;
    const minus = `${prefix}_losses_usd_total`;
    const gained = store.latest(plus);
    const net = gained === null || price === 0 ? null : gained - (store.latest(minus) ?? 0);
    setBig(part(tile, name), format.usd(net), `${plus} - ${minus}`, net);
  }
  setText(
    part(tile, "detail"),
    price > 0
      ? `Since the start, at ${format.usd(price)} an hour of the device.`
      : "No price is set. Start the server with --price-per-device-hour, in USD.",
  );
}

function showQuality(store, shadowShare) {
  const compared = store.latest(COMPARED);
  const same = saving(store.latest(MISMATCHES), compared);
  setBig(
    part("tile-quality", "big"),
    format.percent(same),
    `1 - ${MISMATCHES} / ${COMPARED}`,
    same,
  );
  const errors = store.latest("quire_attention_error_count");
  const error = errors > 0 ? store.latest("quire_attention_error_sum") / errors : null;
  setLine(
    part("tile-quality", "recent"),
    ...(error === null
      ? [""]
      : [
          "audited error ",
          [
            format.percent(error),
            "quire_attention_error_sum / quire_attention_error_count",
            error,
          ],
        ]),
  );
  setLine(
    part("tile-quality", "detail"),
    ...(same === null
      ? [notMeasured(shadowShare)]
      : [[plural(compared, "token"), COMPARED, compared], " compared with dense attention's."]),
  );
}

function notMeasured(share) {
  if (share === 0) return "Not measured: the server runs with --shadow-share 0.";
  const chosen = `${format.percent(share)} of the sparse requests`;
  return `Nothing measured yet. ${chosen} are run again densely when the server is idle.`;
}

const LENGTHS = [
  ["le_1024", "to 1,024"],
  ["le_4096", "to 4,096"],
  ["le_16384", "to 16,384"],
  ["le_65536", "to 65,536"],
  ["more", "beyond"],
];

class DensityBars {
  constructor(box) {
    const list = element("dl", "bars");
    this.rows = LENGTHS.map(([context, label]) => {
      const row = element("div", "bars-row");
      const track = element("dd", "track");
      track.setAttribute("aria-hidden", "true");
      const fill = element("div", "fill");
      track.append(fill);
      const value = element("dd", "value", format.DASH);
      row.append(element("dt", "", label), track, value);
      list.append(row);
      return { context, row, fill, value };
    });
    box.replaceWith(list);
    list.id = "density-bars";
  }

  show(store) {
    for (const { context, row, fill, value } of this.rows) {
      const read = `quire_attention_columns_total{context="${context}"}`;
      const all = `quire_attention_columns_dense_equivalent_total{context="${context}"}`;
      const whole = store.latest(all);
      const share = whole > 0 ? store.latest(read) / whole : null;
      setMetric(value, format.percent(share), `${read} / ${all}`, share);
      row.classList.toggle("unused", share === null);
      const width = `${(100 * Math.min(1, share ?? 0)).toFixed(1)}%`;
      if (fill.style.width !== width) fill.style.width = width;
    }
  }
}

const TOTALS = [
  ["Prompt tokens read", "quire_prompt_tokens_total", format.whole],
  ["Found in the cache", "quire_prefix_cached_tokens_total", format.whole],
  ["Tokens written", "quire_generated_tokens_total", format.whole],
  ["Running", "quire_requests_running", format.whole],
  ["Waiting", "quire_requests_waiting", format.whole],
  ["Until all prompts are read", "quire_prefill_backlog_seconds", format.seconds],
  ["Resident memory", "process_resident_memory_bytes", format.bytes],
];

class Totals {
  constructor(box) {
    this.values = TOTALS.map(([label]) => {
      const pair = element("div");
      const value = element("dd", "", format.DASH);
      pair.append(element("dt", "", label), value);
      box.append(pair);
      return value;
    });
    this.uptime = element("dd", "", format.DASH);
    const pair = element("div");
    pair.append(element("dt", "", "Up"), this.uptime);
    box.append(pair);
  }

  show(store) {
    TOTALS.forEach(([, name, write], i) => {
      const value = store.latest(name);
      setMetric(this.values[i], write(value), name, value);
    });
    const start = store.latest("process_start_time_seconds");
    const now = store.times[store.size - 1];
    setText(this.uptime, format.duration(start === null ? null : now - start));
  }
}

export class Panels {
  constructor() {
    this.bars = new DensityBars(byId("density-bars"));
    this.totals = new Totals(byId("totals"));
  }

  show(store, overview) {
    const share = overview.shadow_share;
    showWork(store);
    showDeviceTime(store, "tile-measured", "measured", notMeasured(share));
    showDeviceTime(store, "tile-modelled", "modelled", "From the cost model of the engine's steps, once a request has ended.");
    showMoney(store, overview.price_per_device_hour_usd);
    showQuality(store, share);
    this.bars.show(store);
    this.totals.show(store);
  }
}

// A sentence for those who do not see the page.
export function summaryOf(store) {
  const calls = store
    .labelled("quire_request_seconds_count")
    .reduce((sum, [, name]) => sum + (store.recent(name, WINDOW) ?? 0), 0);
  const saved = saving(store.recent(EXECUTED, WINDOW), store.recent(DENSE, WINDOW));
  const first = store.recentQuantile("quire_time_to_first_token_seconds", 0.5, WINDOW);
  return [
    `In the last minute ${plural(calls, "call")} ended.`,
    saved === null ? "" : `${format.percent(saved)} of the attention work was saved.`,
    first === null ? "" : `Half of the answers began within ${format.seconds(first)}.`,
    `${plural(store.latest("quire_requests_running") ?? 0, "request")} running, ${format.whole(store.latest("quire_requests_waiting") ?? 0)} waiting.`,
  ]
    .filter((sentence) => sentence !== "")
    .join(" ");
}
