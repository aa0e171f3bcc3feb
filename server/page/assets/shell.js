// What both pages have: the state of the server, the theme's button, helpers for the page.

import { clock } from "./format.js?v=HASH";

export const byId = (id) => document.getElementById(id);

// Writes only what changes: most numbers stand still most of the time.
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// A number with the expression over series of /metrics that it is, for whoever checks it.
export function setMetric(node, text, expression, value) {
  setText(node, text);
  if (node.dataset.metric !== expression) node.dataset.metric = expression;
  const exact = value === null || value === undefined ? "" : String(value);
  if (node.dataset.value !== exact) node.dataset.value = exact;
}

export function element(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

const STATES = {
  serving: "Serving",
  loading: "Loading",
  draining: "Draining",
  gone: "No connection",
};
const BANNERS = {
  loading: "The model is being loaded. Requests are taken when it is there.",
  draining:
    "The server drains: it finishes the requests it has and refuses new ones. This page ends with it.",
};

// state: one of STATES; since: when an absent server was last heard of, Unix seconds or null.
export function showState(state, since = null) {
  const pill = byId("state");
  if (pill.dataset.state !== state) pill.dataset.state = state;
  setText(byId("state-text"), STATES[state] ?? state);
  const banner = byId("banner");
  const text =
    state === "gone"
      ? `The server does not answer${since === null ? "" : ` since ${clock(since)}`}. Trying again every few seconds; the numbers below are the last that it told.`
      : (BANNERS[state] ?? "");
  setText(banner, text);
  banner.hidden = text === "";
  banner.dataset.kind = state;
  document.body.classList.toggle("stale", state === "gone");
}

export function showModels(models) {
  const box = byId("models");
  box.replaceChildren();
  for (const model of models) {
    if (box.childNodes.length > 0) box.append(" · ");
    box.append(element("b", "", model.name), ` on ${model.device}, ${model.compute_type}`);
  }
}

byId("theme").addEventListener("click", () => globalThis.quireToggleTheme());
