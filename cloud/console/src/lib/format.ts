// Numbers, durations and times as the console writes them. Every function takes
// what may be absent and answers "–" for it, so that no page invents a zero.

export const ABSENT = "–";

/** A count with thin groups: 1 234 567. */
export function count(n: number | undefined): string {
  return n === undefined ? ABSENT : Math.round(n).toLocaleString("en-US").replaceAll(",", "\u202f");
}

/** A measured number with at most four significant digits. */
export function num(x: number | undefined): string {
  if (x === undefined) return ABSENT;
  if (!Number.isFinite(x)) return String(x);
  if (x === 0) return "0";
  const size = Math.abs(x);
  if (size >= 1e6 || size < 1e-4) return x.toExponential(2);
  return String(Number(x.toPrecision(4)));
}

/** A share as a percentage. */
export function percent(x: number | undefined): string {
  return x === undefined ? ABSENT : `${num(x * 100)} %`;
}

/** Bytes in binary units. */
export function bytes(n: number | undefined): string {
  if (n === undefined) return ABSENT;
  let unit = 0;
  while (n >= 1024 && unit < 4) {
    n /= 1024;
    unit++;
  }
  return `${unit === 0 ? n : n.toFixed(1)} ${["B", "KiB", "MiB", "GiB", "TiB"][unit]}`;
}

/** Seconds as people say them: 0.0 s, 42 s, 3 min 20 s, 2 h 5 min, 4 d 3 h. */
export function seconds(s: number | undefined): string {
  if (s === undefined) return ABSENT;
  if (s < 10) return `${s.toFixed(1)} s`;
  const whole = Math.round(s);
  if (whole < 60) return `${whole} s`;
  const two = (big: number, bigUnit: string, small: number, smallUnit: string) =>
    small === 0 ? `${big} ${bigUnit}` : `${big} ${bigUnit} ${small} ${smallUnit}`;
  if (whole < 3600) return two(Math.floor(whole / 60), "min", whole % 60, "s");
  const minutes = Math.round(whole / 60);
  if (minutes < 24 * 60) return two(Math.floor(minutes / 60), "h", minutes % 60, "min");
  const hours = Math.round(minutes / 60);
  return two(Math.floor(hours / 24), "d", hours % 24, "h");
}

/** How long from a to b, both RFC 3339; an absent b is now. */
export function between(a: string | undefined, b: string | undefined, now: number): string {
  if (!a) return ABSENT;
  return seconds(Math.max(0, ((b ? Date.parse(b) : now) - Date.parse(a)) / 1000));
}

/** A time relative to now: "just now", "5 min ago", "in 2 h". */
export function relative(at: string, now: number): string {
  const s = (Date.parse(at) - now) / 1000;
  if (Math.abs(s) < 5) return "just now";
  const size = Math.abs(s);
  const rough =
    size < 60 ? `${Math.round(size)} s` : size < 3600 ? `${Math.round(size / 60)} min` : size < 86400 ? `${Math.round(size / 3600)} h` : `${Math.round(size / 86400)} d`;
  return s < 0 ? `${rough} ago` : `in ${rough}`;
}

const pad = (n: number) => String(n).padStart(2, "0");

/** Date and time of day in the reader's zone: 2026-11-22 20:43:01. */
export function absolute(at: string | number): string {
  const d = new Date(at);
  return `${d.getFullYear()}-${pad(d.getMonth() + 1)}-${pad(d.getDate())} ${pad(d.getHours())}:${pad(d.getMinutes())}:${pad(d.getSeconds())}`;
}

/** The first 12 hex digits of a digest, as the agents and swellctl print it. */
export function short(digest: string | undefined): string {
  return digest ? digest.replace(/^sha256:/, "").slice(0, 12) : ABSENT;
}

/** "1 device", "3 devices". */
export function many(n: number, one: string, more = one + "s"): string {
  return `${count(n)} ${n === 1 ? one : more}`;
}
