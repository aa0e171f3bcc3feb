// The last samples of the server's series, and what can be read off them. A sample is what
// /metrics said at that time; counters only grow (or begin again at 0).

export class Gone extends Error {}

// JSON of one of the server's answers; Gone: no answer came in time.
export async function fetchJson(path) {
  let response;
  try {
    response = await fetch(path, { signal: AbortSignal.timeout(8000), cache: "no-store" });
  } catch (error) {
    throw new Gone(error.message);
  }
  if (response.status >= 500) throw new Gone(`status ${response.status}`);
  const body = await response.json();
  if (!response.ok) throw Object.assign(new Error(body.error.message), { status: response.status });
  return body;
}

export class Store {
  // Samples every `step` seconds, at most `capacity` of them.
  constructor(step, capacity) {
    this.step = step;
    this.capacity = capacity;
    this.clear();
  }

  clear() {
    this.times = [];
    this.series = new Map();
    this.families = new Map(); // of a histogram: its bounds and their columns
  }

  // Adds what the server has that is new, and returns its whole answer.
  async poll() {
    const since = this.times.length > 0 ? this.times[this.times.length - 1] : 0;
    const answer = await fetchJson(`/api/v1/history?step=${this.step}&since=${since}`);
    this.add(answer);
    return answer;
  }

  add({ times, series }) {
    const before = this.times.length;
    this.times.push(...times);
    for (const name of Object.keys(series)) {
      if (!this.series.has(name)) {
        this.series.set(name, new Array(before).fill(null));
        this.families.clear();
      }
    }
    for (const [name, column] of this.series) {
      const values = series[name] ?? null;
      for (let i = 0; i < times.length; ++i) {
        column.push(Array.isArray(values) ? values[i] : values);
      }
    }
    const surplus = this.times.length - this.capacity;
    if (surplus <= 0) return;
    this.times.splice(0, surplus);
    for (const column of this.series.values()) column.splice(0, surplus);
  }

  get size() {
    return this.times.length;
  }

  has(name) {
    return this.series.has(name);
  }

  column(name) {
    return this.series.get(name) ?? null;
  }

  // The newest value; null: the server does not tell it.
  latest(name) {
    const column = this.series.get(name);
    return column === undefined ? null : (column[column.length - 1] ?? null);
  }

  // The newest sum of the series with any of these names; null: none is there.
  sum(...names) {
    const values = names.map((name) => this.latest(name)).filter((value) => value !== null);
    return values.length === 0 ? null : values.reduce((a, b) => a + b, 0);
  }

  // Names of the series of a metric with their label's value: [["le_1024", name], ...].
  labelled(metric) {
    const found = [];
    for (const name of this.series.keys()) {
      const match = /^(.*)\{[a-z_]+="(.*)"\}$/.exec(name);
      if (match !== null && match[1] === metric) found.push([match[2], name]);
    }
    return found;
  }

  // The newest sample that is at least `window` seconds older than sample i, else the oldest.
  before(i, window, from = 0) {
    let j = from;
    while (j + 1 < i && this.times[j + 1] <= this.times[i] - window) ++j;
    return j;
  }

  // How much a counter grew from sample j to sample i.
  static growth(column, j, i) {
    if (column === null) return null;
    const end = column[i];
    if (end === null) return null;
    const begin = column[j] ?? 0;
    return end >= begin ? end - begin : end;
  }

  // The same over the last `window` seconds.
  recent(name, window) {
    const last = this.size - 1;
    if (last < 1) return null;
    return Store.growth(this.column(name), this.before(last, window), last);
  }

  // f(j, i, seconds) for each sample i, j being `window` seconds before; null for the first.
  over(window, f) {
    const out = new Array(this.size).fill(null);
    let j = 0;
    for (let i = 1; i < this.size; ++i) {
      j = this.before(i, window, j);
      out[i] = f(j, i, this.times[i] - this.times[j]);
    }
    return out;
  }

  rate(name, window) {
    const column = this.column(name);
    return this.over(window, (j, i, span) => {
      const grown = Store.growth(column, j, i);
      return grown === null ? null : grown / span;
    });
  }

  // Growth of one counter over that of another; null where the other stood still.
  ratio(part, whole, window) {
    const a = this.column(part);
    const b = this.column(whole);
    return this.over(window, (j, i) => {
      const base = Store.growth(b, j, i);
      return base ? Store.growth(a, j, i) / base : null;
    });
  }

  // { bounds: [...], columns: [...] } of a histogram, bounds growing; null: not there.
  histogram(metric) {
    if (!this.families.has(metric)) {
      const buckets = this.labelled(`${metric}_bucket`)
        .map(([le, name]) => [le === "+Inf" ? Infinity : Number(le), this.column(name)])
        .sort((a, b) => a[0] - b[0]);
      this.families.set(
        metric,
        buckets.length === 0
          ? null
          : { bounds: buckets.map((b) => b[0]), columns: buckets.map((b) => b[1]) },
      );
    }
    return this.families.get(metric);
  }

  quantiles(metric, shares, window) {
    const histogram = this.histogram(metric);
    const out = shares.map(() => new Array(this.size).fill(null));
    if (histogram === null) return out;
    this.over(window, (j, i) => {
      const counts = histogram.columns.map((column) => Store.growth(column, j, i) ?? 0);
      shares.forEach((share, s) => {
        out[s][i] = quantile(histogram.bounds, counts, share);
      });
      return null;
    });
    return out;
  }

  // Of the last `window` seconds; Infinity: since the server's start.
  recentQuantile(metric, share, window) {
    const histogram = this.histogram(metric);
    const last = this.size - 1;
    if (histogram === null || last < 0) return null;
    const j = window === Infinity ? -1 : this.before(last, window);
    const counts = histogram.columns.map((c) => (j < 0 ? c[last] : Store.growth(c, j, last)) ?? 0);
    return quantile(histogram.bounds, counts, share);
  }
}

// As Prometheus' histogram_quantile: linear within a bucket, the last finite bound beyond.
// counts: cumulative. null: there is nothing.
export function quantile(bounds, counts, share) {
  const total = counts[counts.length - 1];
  if (!total) return null;
  const rank = share * total;
  const i = counts.findIndex((count) => count >= rank);
  if (bounds[i] === Infinity) return bounds[i - 1] ?? null;
  const low = i === 0 ? 0 : bounds[i - 1];
  const below = i === 0 ? 0 : counts[i - 1];
  const within = counts[i] - below;
  return within === 0 ? low : low + ((bounds[i] - low) * (rank - below)) / within;
}
