// The table of the last requests.

import * as format from "./format.js?v=HASH";
import { byId, element, setText } from "./shell.js?v=HASH";
import { fetchJson } from "./store.js?v=HASH";

const SHOWN = 50;

// An id that a path can carry as it is goes into it; others go by their number.
export function linkTo({ id, number }) {
  return /^[A-Za-z0-9_-][A-Za-z0-9._-]*$/.test(id) ? `/request/${id}` : `/request/number/${number}`;
}

function cell(row, text, className) {
  const node = row.insertCell();
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

function keysRead(node, density) {
  if (density === null) {
    node.textContent = format.DASH;
    return;
  }
  const track = element("span", "track mini");
  track.setAttribute("aria-hidden", "true");
  const fill = element("span", "fill");
  fill.style.width = `${(100 * Math.min(1, density)).toFixed(1)}%`;
  track.append(fill);
  node.append(track, format.percent(density));
}

function rowOf(request) {
  const row = document.createElement("tr");
  row.dataset.number = request.number;
  cell(row, format.clock(request.arrival + request.seconds));
  const name = cell(row);
  const link = element("a", "id", request.id);
  link.href = linkTo(request);
  name.append(link, element("span", "sub", request.method));
  if (request.code !== "OK") {
    name.append(" ", element("span", "code", request.reason || request.code));
  }
  cell(row, request.mode ?? format.DASH);
  cell(row, format.whole(request.prompt_tokens), "num").dataset.field = "prompt_tokens";
  cell(row, format.whole(request.generated_tokens), "num").dataset.field = "generated_tokens";
  cell(row, format.seconds(request.time_to_first_token_seconds), "num");
  cell(row, format.seconds(request.seconds), "num");
  keysRead(cell(row), request.density);
  const saved = request.dense_macs > 0 ? 1 - request.executed_macs / request.dense_macs : null;
  cell(row, format.percent(saved), "num");
  cell(row, format.percent(request.audit_error), "num");
  cell(row, request.shadow === null ? format.DASH : format.times(request.shadow.speedup), "num");
  return row;
}

export class Requests {
  constructor() {
    this.body = byId("requests");
    this.clear();
  }

  clear() {
    this.version = 0;
    this.body.replaceChildren();
  }

  get count() {
    return this.body.rows.length;
  }

  // Fetches what changed. version: the server's; a smaller one than ours: it began anew.
  async follow(version) {
    if (version < this.version) this.clear();
    if (version === this.version) return;
    const answer = await fetchJson(`/api/v1/requests?after=${this.version}&limit=${SHOWN}`);
    this.version = answer.version;
    for (const request of [...answer.requests].reverse()) this.put(request);
    while (this.count > SHOWN) this.body.lastElementChild.remove();
    setText(
      byId("requests-note"),
      this.count === 0
        ? "No request has ended yet."
        : "Numbers from the receipts; texts are not kept. “Dense takes” is measured by running the request again.",
    );
  }

  put(request) {
    const row = rowOf(request);
    const old = [...this.body.rows].find((r) => r.dataset.number === row.dataset.number);
    if (old !== undefined) {
      if (!old.contains(document.activeElement)) old.replaceWith(row);
      return;
    }
    const older = [...this.body.rows].find((r) => Number(r.dataset.number) < request.number);
    this.body.insertBefore(row, older ?? null);
  }
}
