// A real quire-server with a small model, and its client.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const repository = join(dirname(fileURLToPath(import.meta.url)), "..", "..");
export const sample = join(repository, "deploy/sample/arrest-of-arsene-lupin.txt");

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// Waits until f() gives something; throws `what` after `seconds`.
export async function until(what, f, seconds = 60) {
  const end = Date.now() + seconds * 1000;
  while (Date.now() < end) {
    const value = await f();
    if (value) return value;
    await sleep(100);
  }
  throw new Error(`waited ${seconds} s for ${what}`);
}

export class Server {
  constructor(program, client) {
    this.client = client;
    this.folder = mkdtempSync(join(tmpdir(), "quire-page-"));
    this.ports = join(this.folder, "ports");
    this.process = spawn(
      program,
      [
        ["--model", join(repository, "models/quire-19m")],
        ["--listen", "127.0.0.1:0"],
        ["--http-listen", "127.0.0.1:0"],
        ["--port-file", this.ports],
        ["--price-per-device-hour", "2.5"],
        ["--shadow-share", "1"],
        ["--shadow-device-seconds-per-minute", "40"],
        ["--drain-seconds", "5"],
        ["--log-level", "warning"],
      ].flat(),
      { stdio: ["ignore", "ignore", "inherit"] },
    );
    this.ended = once(this.process, "exit");
  }

  async ready() {
    await until("the server", () => existsSync(this.ports));
    const lines = readFileSync(this.ports, "utf8").trim().split("\n");
    const ports = Object.fromEntries(lines.map((line) => line.split("=")));
    this.grpc = ports.grpc;
    this.http = `http://${ports.http}`;
  }

  // So many bytes of the sample, again and again, as a file.
  text(bytes) {
    const path = join(this.folder, `${bytes}.txt`);
    writeFileSync(path, readFileSync(sample, "latin1").repeat(9).slice(0, bytes), "latin1");
    return path;
  }

  // The client's exit code.
  async run(...args) {
    const child = spawn(this.client, ["--server", this.grpc, ...args], { stdio: "ignore" });
    const [code] = await once(child, "exit");
    return code;
  }

  async get(path) {
    return (await fetch(this.http + path)).text();
  }

  // Value of a series or of all series that have this label, added; null: there is none.
  async metrics() {
    const series = [];
    for (const line of (await this.get("/metrics")).split("\n")) {
      const match = /^([a-z0-9_]+)(?:\{(.*)\})? (\S+)$/.exec(line);
      if (match === null) continue;
      const labels = [...(match[2] ?? "").matchAll(/([a-z_]+)="((?:[^"\\]|\\.)*)"/g)];
      series.push({ name: match[1], labels: labels.map((l) => l[0]), value: Number(match[3]) });
    }
    return (name) => {
      const [, metric, label] = /^([a-z0-9_]+)(?:\{(.*)\})?$/.exec(name);
      const found = series.filter(
        (s) => s.name === metric && (label === undefined || s.labels.includes(label)),
      );
      return found.length === 0 ? null : found.reduce((sum, s) => sum + s.value, 0);
    };
  }

  signal(name) {
    this.process.kill(name);
  }

  async close() {
    if (this.process.exitCode === null) this.process.kill("SIGKILL");
    await this.ended;
    rmSync(this.folder, { recursive: true });
  }
}
