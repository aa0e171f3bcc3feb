// The overview: polls the server once a second and shows what it told.

import { Chart } from "./charts.js?v=HASH";
import * as format from "./format.js?v=HASH";
import { Panels, summaryOf } from "./panels.js?v=HASH";
import { Requests } from "./requests.js?v=HASH";
import { byId, setText, showModels, showState } from "./shell.js?v=HASH";
import { Gone, Store, fetchJson } from "./store.js?v=HASH";

const POLL_MS = 1000;
const RETRY_MS = 3000;
const SUMMARY_MS = 30000;
// By step of the history: how many samples there are, and over how long rates and quantiles are
// taken, seconds.
const RANGES = {
  1: { samples: 600, rate: 10, quantile: 60, redraw: 3000 },
  10: { samples: 720, rate: 60, quantile: 300, redraw: 10000 },
  60: { samples: 1440, rate: 300, quantile: 1800, redraw: 60000 },
};

const QUANTILES = [
  { label: "p50", color: "--blue" },
  { label: "p95", color: "--violet" },
  { label: "p99", color: "--rose" },
];
const quantiles = (metric) => ({
  lines: QUANTILES,
  format: format.seconds,
  compute: (store, { quantile }) => store.quantiles(metric, [0.5, 0.95, 0.99], quantile),
});

const net = (store, basis, price) => {
  if (price > 0) {
    const prefix = basis === "measured" ? "quire_measured" : "quire_estimated";
    return difference(store, `${prefix}_savings_usd_total`, `${prefix}_losses_usd_total`);
  }
  return difference(
    store,
    `quire_request_dense_device_seconds_total{basis="${basis}"}`,
    `quire_request_device_seconds_total{basis="${basis}"}`,
  );
};

function difference(store, plus, minus) {
  const a = store.column(plus);
  const b = store.column(minus);
  if (a === null) return new Array(store.size).fill(null);
  return a.map((value, i) => (value === null ? null : value - (b?.[i] ?? 0)));
}

const gauge = (store, name) => store.column(name) ?? new Array(store.size).fill(null);
const flops = (value) => format.compact(value, "FLOP/s");

const chartSpecs = (price) => ({
  work: {
    lines: [
      { label: "dense equivalent", color: "--dense", dash: true },
      { label: "executed", color: "--blue", fill: true },
    ],
    format: flops,
    axis: (value) => format.compact(value),
    compute: (store, { rate }) => [
      store.rate("quire_attention_flops_dense_equivalent_total", rate),
      store.rate("quire_attention_flops_total", rate),
    ],
  },
  saved: {
    lines: [
      { label: "measured", color: "--green", fill: true },
      { label: "modelled", color: "--dense", dash: true },
    ],
    format: price > 0 ? format.usd : format.seconds,
    compute: (store) => [net(store, "measured", price), net(store, "modelled", price)],
  },
  device: {
    lines: [
      { label: "prefill", color: "--blue" },
      { label: "decode", color: "--violet" },
      { label: "measuring", color: "--amber" },
    ],
    format: format.percent,
    top: 1,
    compute: (store, { rate }) => [
      store.rate('quire_gpu_seconds_total{phase="prefill"}', rate),
      store.rate('quire_gpu_seconds_total{phase="decode"}', rate),
      store.rate("quire_shadow_device_seconds_total", rate),
    ],
  },
  drift: {
    lines: [
      { label: "mean", color: "--blue" },
      { label: "p95", color: "--violet" },
    ],
    format: format.number,
    compute: (store, { quantile }) => [
      store.ratio(
        "quire_shadow_logprob_abs_delta_sum",
        "quire_shadow_logprob_abs_delta_count",
        quantile * 5,
      ),
      ...store.quantiles("quire_shadow_logprob_abs_delta", [0.95], quantile * 5),
    ],
  },
  top1: {
    lines: [{ label: "of the compared", color: "--rose", fill: true }],
    format: format.percent,
    compute: (store, { quantile }) => [
      store.ratio(
        "quire_shadow_top1_mismatch_total",
        "quire_shadow_compared_tokens_total",
        quantile * 5,
      ),
    ],
  },
  error: {
    lines: [
      { label: "p50", color: "--blue" },
      { label: "p95", color: "--violet" },
    ],
    format: format.percent,
    compute: (store, { quantile }) =>
      store.quantiles("quire_attention_error", [0.5, 0.95], quantile * 5),
  },
  ttft: quantiles("quire_time_to_first_token_seconds"),
  itl: quantiles("quire_inter_token_latency_seconds"),
  tokens: {
    lines: [
      { label: "read", color: "--blue" },
      { label: "from the cache", color: "--green", dash: true },
      { label: "written", color: "--violet" },
    ],
    format: (value) => format.compact(value),
    compute: (store, { rate }) =>
      [
        "quire_prompt_tokens_total",
        "quire_prefix_cached_tokens_total",
        "quire_generated_tokens_total",
      ].map((name) => store.rate(name, rate)),
  },
  queue: {
    lines: [
      { label: "running", color: "--blue", fill: true },
      { label: "waiting", color: "--amber" },
    ],
    format: (value) => format.compact(value),
    compute: (store) => [
      gauge(store, "quire_requests_running"),
      gauge(store, "quire_requests_waiting"),
    ],
  },
  memory: {
    lines: [
      { label: "in use", color: "--blue", fill: true },
      { label: "reusable", color: "--green", dash: true },
    ],
    format: format.percent,
    top: 1,
    compute: (store) => [
      gauge(store, "quire_kv_cache_usage_ratio"),
      gauge(store, "quire_kv_cache_cached_ratio"),
    ],
  },
});

class Overview {
  constructor(overview) {
    this.overview = overview;
    this.live = new Store(1, RANGES[1].samples);
    this.view = this.live;
    this.panels = new Panels();
    this.requests = new Requests();
    const specs = chartSpecs(overview.price_per_device_hour_usd);
    this.charts = Object.entries(specs).map(([name, spec]) => ({
      spec,
      chart: new Chart(byId(`chart-${name}`), spec),
    }));
    this.heard = null; // Unix seconds
    this.state = "unknown";
    this.start = null;
    this.drawn = 0;
    this.polled = 0;
    this.said = 0;
    this.showFacts();
  }

  showFacts() {
    const { version, models, price_per_device_hour_usd: price, grpc_address } = this.overview;
    setText(byId("version"), `Quire ${version}`);
    showModels(models);
    setText(
      byId("saved-note"),
      price > 0
        ? "US dollars: what dense attention would have cost more, measured by running requests twice, and modelled for the others."
        : "Device time that dense attention would have taken more, measured by running requests twice, and modelled for the others.",
    );
    const at = grpc_address === "127.0.0.1:50051" ? "" : ` --server ${grpc_address}`;
    setText(
      byId("commands"),
      [
        `quire summarize book.txt${at}`,
        `quire ask book.txt "Who is the narrator?"${at}`,
        `quire score book.txt${at}`,
      ].join("\n"),
    );
  }

  async tick() {
    const answer = await this.live.poll();
    const start = this.live.latest("process_start_time_seconds");
    if (this.start !== null && start !== null && start !== this.start) return this.restart();
    this.start = start;
    this.heard = Date.now() / 1000;
    await this.requests.follow(answer.requests_version);
    if (answer.state !== this.state) await this.changeState(answer.state);
    if (this.view !== this.live && this.heard - this.polled >= this.view.step) {
      this.polled = this.heard;
      await this.view.poll();
    }
    this.show();
    return undefined;
  }

  async changeState(state) {
    this.state = state;
    this.overview = await fetchJson("/api/v1/overview");
    this.showFacts();
    showState(state);
  }

  // Another process answers now: nothing of the old one holds.
  restart() {
    this.start = null;
    this.live.clear();
    this.view.clear();
    this.requests.clear();
    this.state = "unknown";
  }

  show() {
    const now = Date.now();
    this.panels.show(this.live, this.overview);
    byId("empty").hidden = this.state !== "serving" || this.requests.count > 0;
    if (now - this.drawn >= RANGES[this.view.step].redraw - 50) this.draw();
    if (now - this.said >= SUMMARY_MS) {
      this.said = now;
      setText(byId("summary"), summaryOf(this.live));
    }
  }

  draw() {
    this.drawn = Date.now();
    const range = RANGES[this.view.step];
    for (const { spec, chart } of this.charts) {
      chart.update([this.view.times, ...spec.compute(this.view, range)]);
    }
  }

  async choose(step) {
    this.view = step === 1 ? this.live : new Store(step, RANGES[step].samples);
    if (this.view !== this.live) await this.view.poll();
    this.polled = Date.now() / 1000;
    this.draw();
  }
}

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// Once the page is seen.
const seen = () =>
  document.visibilityState === "visible"
    ? Promise.resolve()
    : new Promise((resolve) => {
        document.addEventListener("visibilitychange", resolve, { once: true });
      });

// Runs f; false: the server is gone, which is shown from the second time on.
async function whileThere(f, heard) {
  try {
    await f();
    whileThere.failures = 0;
    return true;
  } catch (error) {
    if (!(error instanceof Gone)) throw error;
    whileThere.failures = (whileThere.failures ?? 0) + 1;
    if (whileThere.failures > 1) showState("gone", heard());
    return false;
  }
}

async function run() {
  let overview = null;
  while (!(await whileThere(async () => (overview = await fetchJson("/api/v1/overview")), () => null))) {
    await sleep(RETRY_MS);
  }
  const page = new Overview(overview);
  byId("ranges").addEventListener("change", (event) => {
    whileThere(() => page.choose(Number(event.target.value)), () => page.heard);
  });
  while (true) {
    const begin = Date.now();
    const there = await whileThere(() => page.tick(), () => page.heard);
    if (!there) page.state = "unknown";
    await sleep(there ? Math.max(100, POLL_MS - (Date.now() - begin)) : RETRY_MS);
    await seen();
  }
}

run();
