// Numbers for people. Unknown values (null, NaN) are a dash.

export const DASH = "–";
const known = (value) => value !== null && value !== undefined && Number.isFinite(value);

const local = (value, decimals) =>
  value.toLocaleString("en-US", { maximumFractionDigits: decimals }).replace("-", "−");

// At most `digits` significant digits, no exponent.
function digits(value, count) {
  if (value === 0) return "0";
  const magnitude = Math.floor(Math.log10(Math.abs(value)));
  return local(value, Math.min(12, Math.max(0, count - 1 - magnitude)));
}

const SCALES = [
  [1e18, "E"],
  [1e15, "P"],
  [1e12, "T"],
  [1e9, "G"],
  [1e6, "M"],
  [1e3, "k"],
];

// 1234567 -> "1.23 M"
export function compact(value, unit = "") {
  if (!known(value)) return DASH;
  const tail = unit === "" ? "" : unit;
  for (const [scale, letter] of SCALES) {
    if (Math.abs(value) >= scale) return `${digits(value / scale, 3)} ${letter}${tail}`;
  }
  return digits(value, 3) + (tail === "" ? "" : ` ${tail}`);
}

export const whole = (value) => (known(value) ? Math.round(value).toLocaleString("en-US") : DASH);

export function percent(share) {
  if (!known(share)) return DASH;
  const value = 100 * share;
  if (value !== 0 && Math.abs(value) < 0.1) return `${digits(value, 1)} %`;
  return `${local(value, 1)} %`;
}

export function seconds(value) {
  if (!known(value)) return DASH;
  const size = Math.abs(value);
  if (size === 0) return "0 s";
  if (size < 1e-3) return `${digits(value * 1e6, 2)} µs`;
  if (size < 1) return `${digits(value * 1e3, size < 0.01 ? 2 : 3)} ms`;
  if (size < 120) return `${digits(value, 3)} s`;
  return duration(value);
}

// 93784 -> "1 d 2 h"
export function duration(value) {
  if (!known(value)) return DASH;
  const total = Math.floor(Math.abs(value));
  const sign = value < 0 ? "−" : "";
  const parts = [
    [Math.floor(total / 86400), "d"],
    [Math.floor(total / 3600) % 24, "h"],
    [Math.floor(total / 60) % 60, "min"],
    [total % 60, "s"],
  ];
  const first = parts.findIndex(([n]) => n > 0);
  if (first < 0) return "0 s";
  const shown = parts.slice(first, first + 2).filter(([n]) => n > 0);
  return sign + shown.map(([n, unit]) => `${n} ${unit}`).join(" ");
}

export function usd(value) {
  if (!known(value)) return DASH;
  const size = Math.abs(value);
  const sign = value < 0 ? "−" : "";
  if (size === 0) return "$0";
  if (size >= 1000) return `${sign}$${digits(size, 4)}`;
  if (size >= 1) return `${sign}$${size.toFixed(2)}`;
  if (size >= 1e-6) return `${sign}$${digits(size, 2)}`;
  return `${sign}< $0.000001`;
}

export const times = (value) => (known(value) ? `${digits(value, value < 1 ? 2 : 3)}×` : DASH);
export const number = (value) => (known(value) ? digits(value, 3) : DASH);

export function bytes(value) {
  if (!known(value)) return DASH;
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let unit = 0;
  let scaled = value;
  while (scaled >= 1024 && unit < units.length - 1) {
    scaled /= 1024;
    ++unit;
  }
  return `${digits(scaled, 3)} ${units[unit]}`;
}

export function clock(unixSeconds, withSeconds = true) {
  return new Date(unixSeconds * 1000).toLocaleTimeString("en-GB", {
    hour: "2-digit",
    minute: "2-digit",
    ...(withSeconds ? { second: "2-digit" } : {}),
  });
}

export function dateTime(unixSeconds) {
  const date = new Date(unixSeconds * 1000);
  const day = date.toLocaleDateString("en-GB", { day: "numeric", month: "short", year: "numeric" });
  return `${day}, ${clock(unixSeconds)}`;
}
