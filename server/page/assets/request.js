// One request, explained. Fetched again while its page is open: what a second, dense run of
// it found may come later.

import * as format from "./format.js?v=HASH";
import { descriptionOf, heatTable, heatmap, sharesOf } from "./heatmap.js?v=HASH";
import { byId, element, setText, showModels, showState } from "./shell.js?v=HASH";
import { Gone, fetchJson } from "./store.js?v=HASH";
import { axis, phaseBar, phasesOf, timeline } from "./timeline.js?v=HASH";

const POLL_MS = 5000;
const path = location.pathname.replace(/^\/request\/?/, "");
const api = `/api/v1/requests/${path}`;

const VERBS = { Summarize: "Summarised", Generate: "Answered", Score: "Scored", ScoreBatch: "Scored" };
const tokens = (n) => `${format.whole(n)} token${n === 1 ? "" : "s"}`;
const workSaved = (r) => (r.dense_macs > 0 ? 1 - r.executed_macs / r.dense_macs : null);

// -------------------------------------------------------------------------------- in words

function endWords(r) {
  if (r.code === "OK") return [];
  return [`It ended with ${r.code}${r.reason ? ` (${r.reason})` : ""} after ${format.seconds(r.seconds)}.`];
}

function readWords(r) {
  if (r.receipt === null) return [r.code === "OK" ? "" : "Nothing was computed for it that it got a receipt for."];
  const cached = r.cached_tokens > 0 ? `, ${format.whole(r.cached_tokens)} of them found in the cache,` : "";
  const wrote = r.generated_tokens > 0 ? ` and wrote ${tokens(r.generated_tokens)}` : "";
  return [`${VERBS[r.method] ?? r.method}: read ${tokens(r.prompt_tokens)}${cached}${wrote} in ${format.seconds(r.seconds)}.`];
}

function savedWords(r) {
  if (r.receipt === null) return [];
  if (r.receipt.total.sparse_rows === 0) {
    return ["Every token read all keys before it: the text is short, or dense attention was asked for."];
  }
  const saved = workSaved(r);
  return [
    `It read ${format.percent(r.density)} of the keys that dense attention reads; with choosing them, that was ${format.percent(Math.abs(saved))} ${saved >= 0 ? "less" : "more"} attention work.`,
  ];
}

function qualityWords(r) {
  const words = [];
  if (r.audit_error !== null) {
    words.push(`At ${tokens(r.receipt.total.audits)} that were audited, its attention's outputs were ${format.percent(r.audit_error)} off.`);
  }
  if (r.receipt?.fell_back) words.push("That was over its max_error, so it went on densely.");
  if (r.shadow !== null && r.shadow.compared_tokens > 0) {
    const same = 1 - r.shadow.top1_mismatches / r.shadow.compared_tokens;
    words.push(`Run again densely it took ${format.times(r.shadow.speedup)} its device time, and ${format.percent(same)} of the next tokens were the same.`);
  }
  return words;
}

const inWords = (r) =>
  [...endWords(r), ...readWords(r), ...savedWords(r), ...qualityWords(r)].filter((w) => w !== "").join(" ");

// ---------------------------------------------------------------------------------- pieces

function showHead(r) {
  document.title = `Request ${r.id} · Quire`;
  setText(byId("id"), r.id);
  const tags = [r.method, r.mode, r.model, format.dateTime(r.arrival)].filter(Boolean);
  byId("tags").replaceChildren(...tags.map((tag) => element("span", "tag", tag)));
  if (r.code !== "OK") byId("tags").prepend(element("span", "tag bad", r.reason || r.code));
  setText(byId("words"), inWords(r));
  byId("json").href = api;
}

function fact(label, value, phase) {
  const pair = element("div");
  const name = element("dt");
  if (phase) name.append(element("span", `key phase-${phase}`));
  name.append(label);
  pair.append(name, element("dd", "", value));
  return pair;
}

function showTimes(r) {
  byId("phases").replaceChildren(...phaseBar(r));
  const picture = timeline(r);
  byId("timeline").replaceChildren(
    ...(picture === null
      ? [element("p", "fine", "No progress was recorded: it ended before the engine reported any.")]
      : [picture, axis(r)]),
  );
  const facts = phasesOf(r).map(([phase, label, s]) => fact(label, format.seconds(s), phase));
  if (r.time_to_first_token_seconds !== null) {
    facts.push(fact("First token after", format.seconds(r.time_to_first_token_seconds)));
  }
  facts.push(fact("Total", format.seconds(r.seconds)));
  byId("times").replaceChildren(...facts);
}

function rows(pairs) {
  const table = element("table", "rows");
  for (const [label, value, basis] of pairs) {
    const line = table.insertRow();
    const name = element("th", "", label);
    name.scope = "row";
    if (basis) name.append(element("span", `basis ${basis}`, basis));
    line.append(name);
    line.insertCell().textContent = value;
  }
  return table;
}

function lead(value, what) {
  const line = element("p", "lead", `${value} `);
  line.append(element("small", "", what));
  return line;
}

function timeRows(saved, basis) {
  if (saved === null) return [];
  const out = [
    ["Device time", format.seconds(saved.device_seconds), basis],
    ["Dense would take", format.seconds(saved.dense_device_seconds), basis],
  ];
  if (saved.usd !== 0) out.push([saved.usd > 0 ? "Saved" : "Lost", format.usd(Math.abs(saved.usd)), basis]);
  return out;
}

function showSaved(r) {
  const saved = workSaved(r);
  const box = byId("saved");
  if (saved === null) return box.replaceChildren(element("p", "fine", "No attention was computed."));
  const pairs = [
    ["Attention executed", format.compact(2 * r.executed_macs, "FLOP")],
    ["Dense equivalent", format.compact(2 * r.dense_macs, "FLOP")],
    ["Keys read, of dense attention's", format.percent(r.density)],
    ...timeRows(r.measured, "measured"),
    ...timeRows(r.modelled, "modelled"),
  ];
  return box.replaceChildren(lead(format.percent(saved), "of the attention work"), rows(pairs));
}

function showQuality(r) {
  const box = byId("quality");
  if (r.receipt === null) return box.replaceChildren(element("p", "fine", "There is no answer to judge."));
  const all = r.receipt.total;
  const sparse = all.sparse_rows > 0;
  const pairs = [];
  if (sparse) {
    pairs.push(
      ["eps", `${format.number(r.receipt.eps)}${r.receipt.eps_lowered > 0 ? `, lowered ${r.receipt.eps_lowered} times` : ""}`],
      ["Share of attention read for certain", format.percent(all.coverage)],
      ["Expected standard error of the rest", format.number(all.tail_risk)],
    );
  }
  if (all.audits > 0) {
    pairs.push(["Audited tokens", format.whole(all.audits)], ["Audited error, mean", format.percent(all.audit_error)], ["Audited error, largest", format.percent(all.max_audit_error)]);
  }
  const head = [];
  if (r.shadow !== null && r.shadow.compared_tokens > 0) {
    const same = 1 - r.shadow.top1_mismatches / r.shadow.compared_tokens;
    head.push(lead(format.percent(same), "same next token as dense"));
    pairs.push(
      ["Compared tokens", format.whole(r.shadow.compared_tokens), "measured"],
      ["Mean difference of log probabilities", `${format.number(r.shadow.logprob_abs_delta)} nats`, "measured"],
      ["Dense takes, of its device time", format.times(r.shadow.speedup), "measured"],
    );
  } else {
    head.push(element("p", "fine", sparse ? "It was not run again densely (yet), so its answer is judged by the audits alone." : "It is dense attention's own answer."));
  }
  return box.replaceChildren(...head, rows(pairs));
}

const RECEIPT = [
  ["Attention", "attention_macs"],
  ["Choosing what to read", "selection_macs"],
  ["Groups and index", "statistics_macs"],
  ["Audits", "audit_macs"],
  ["Executed", "executed_macs", "sum"],
  ["Dense equivalent", "dense_macs", "sum"],
];

function showReceipt(r) {
  const table = byId("receipt");
  table.replaceChildren();
  byId("receipt-note").hidden = r.receipt === null;
  if (r.receipt === null) {
    table.append(element("caption", "fine", "There is none: the request ended before it was through."));
    return;
  }
  table.append(element("caption", "sr-only", "Receipt by phase"));
  const head = table.createTHead().insertRow();
  ["Multiply-adds", "Reading", "Writing", "Total"].forEach((name, i) => {
    const cell = element("th", i > 0 ? "num" : "", name);
    cell.scope = "col";
    head.append(cell);
  });
  const body = table.createTBody();
  const add = (label, write, className) => {
    const line = body.insertRow();
    if (className) line.className = className;
    const name = element("th", "", label);
    name.scope = "row";
    line.append(name);
    for (const phase of ["prefill", "decode", "total"]) {
      line.insertCell().textContent = write(r.receipt[phase]);
    }
  };
  for (const [label, field, className] of RECEIPT) add(label, (p) => format.compact(p[field]), className);
  add("Keys read", (p) => format.compact(p.columns));
  add("of dense attention's", (p) => format.percent(p.density));
  add("Bytes fetched", (p) => format.bytes(p.executed_bytes));
  add("Bytes, dense equivalent", (p) => format.bytes(p.dense_bytes));
  add("Attention's own time", (p) => format.seconds(p.seconds));
  setText(byId("receipt-note"), "A key counts once for each query head that reads it.");
}

function showHeads(r) {
  const toggle = byId("heads-toggle");
  toggle.hidden = r.heads === null;
  if (r.heads === null) {
    setText(byId("heads-note"), "Not recorded: this request computed nothing, or it ran on a device that does not count by head.");
    byId("heads").replaceChildren();
    return;
  }
  const shares = sharesOf(r.heads);
  setText(byId("heads-note"), `Of what dense attention reads, by key/value head. ${descriptionOf(shares)}`);
  const asTable = toggle.getAttribute("aria-pressed") === "true";
  byId("heads").replaceChildren(asTable ? heatTable(shares) : heatmap(shares));
}

// ------------------------------------------------------------------------------------ page

let shown = null; // the record, as text
let record = null;

function show(r) {
  const text = JSON.stringify(r);
  if (text === shown) return;
  shown = text;
  record = r;
  byId("missing").hidden = true;
  byId("found").hidden = false;
  for (const piece of [showHead, showTimes, showSaved, showQuality, showHeads, showReceipt]) piece(r);
}

function showMissing() {
  document.title = "No such request · Quire";
  byId("missing").hidden = false;
  byId("found").hidden = true;
}

async function tick() {
  try {
    const overview = await fetchJson("/api/v1/overview");
    showState(overview.state);
    showModels(overview.models);
    setText(byId("version"), `Quire ${overview.version}`);
    show(await fetchJson(api));
  } catch (error) {
    if (error instanceof Gone) return showState("gone");
    if (record === null) showMissing();
  }
  return undefined;
}

byId("heads-toggle").addEventListener("click", (event) => {
  const button = event.currentTarget;
  button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
  showHeads(record);
});
tick();
setInterval(() => {
  if (document.visibilityState === "visible") tick();
}, POLL_MS);
