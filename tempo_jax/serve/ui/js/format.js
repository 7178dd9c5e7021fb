// Numbers as people read them. All are pure.

const COUNT = new Intl.NumberFormat("en-US");

// 75 -> "1:15", 3675 -> "1:01:15"
export function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds + 1e-6));
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (number) => String(number).padStart(2, "0");
  return hours ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
}

// "1:15 to 1:31", and with fractions where both would read alike.
export function span(start, end) {
  const [from, to] = [clock(start), clock(end)];
  return from === to ? `${start.toFixed(1)} to ${end.toFixed(1)} s` : `${from} to ${to}`;
}

// A duration for the ear and the eye: "0.84 s", "12 s", "3 min 20 s".
export function duration(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  if (seconds < 0.995) return `${seconds.toFixed(2)} s`;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  if (seconds < 99.5) return `${Math.round(seconds)} s`;
  const whole = Math.round(seconds);
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const parts = hours ? [[hours, "h"], [minutes, "min"]] : [[minutes, "min"], [rest, "s"]];
  return parts.filter(([number]) => number).map(([number, unit]) => `${number} ${unit}`).join(" ");
}

// Time that is left, roughly: nobody reads the third figure of a guess.
export function left(seconds) {
  if (seconds < 1.5) return "about a second left";
  if (seconds < 10) return `about ${Math.round(seconds)} s left`;
  if (seconds < 90) return `about ${Math.round(seconds / 5) * 5} s left`;
  return `about ${Math.round(seconds / 60)} min left`;
}

export function count(number) {
  return COUNT.format(number);
}

// Three significant figures at most: 0.512, 8.25, 132.
export function figure(number) {
  if (!Number.isFinite(number)) return "–";
  return Math.abs(number) >= 100 ? count(Math.round(number)) : String(Number(number.toPrecision(3)));
}

export function bytes(number) {
  if (number < 1024) return `${number} B`;
  const [unit, size] = number < 1 << 20 ? ["KiB", 1 << 10] : number < 1 << 30 ? ["MiB", 1 << 20] : ["GiB", 1 << 30];
  const value = number / size;
  return `${value < 10 ? Number(value.toFixed(1)) : Math.round(value)} ${unit}`;
}

export function plural(number, one, many = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : many}`;
}

// Steps of a time axis, in seconds, that read well on a clock.
const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800];

// Where a time axis from `start` to `end` has ticks, at most `most` of them.
export function ticks(start, end, most) {
  const step = STEPS.find((s) => (end - start) / s <= most) ?? 28800;
  const found = [];
  for (let tick = Math.ceil(start / step - 1e-9) * step; tick <= end + 1e-9; tick += step) found.push(tick);
  return found;
}
