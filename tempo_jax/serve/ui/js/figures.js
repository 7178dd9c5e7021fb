// What an answer cost and saved, in a few figures, with the rest folded; and the segments that stood out.

import { h } from "./dom.js";
import { clock, count, duration, figure, plural, span } from "./format.js";

const MOST_THUMBNAILS = 6;

// [label, value, explanation] of the figures that come first.
export function headline({ answer }) {
  const { usage } = answer;
  const rows = [["Time to first token", duration(answer.first_token_seconds ?? answer.timings.first_token), "From asking to the first word, waiting and opening the video included."]];
  rows.push(["Tokens per frame", figure(usage.tokens_per_frame), "Visual tokens that the language model read, per frame that was looked at."]);
  if (answer.video_reused) rows.push(["Saved by reuse", duration(answer.saved_seconds || answer.open_seconds), "The video was open already; this is what opening it took."]);
  else rows.push(["Opening the video", duration(answer.open_seconds), "Decoding and encoding, once: further questions about this video save it."]);
  return rows;
}

export function headlineView(variant) {
  return h(
    "dl",
    { class: "figures" },
    headline(variant).map(([label, value, help]) => h("div", { title: help }, h("dt", {}, label), h("dd", {}, value))),
  );
}

// Two variants in one table: a column each.
export function comparison(variants) {
  const rows = variants.map((variant) => [...headline(variant), ...tokenRows(variant)]);
  const labels = [...new Set(rows.flatMap((some) => some.map(([label]) => label)))];
  const cell = (some, label) => some.find(([name]) => name === label)?.[1] ?? "–";
  return h(
    "table",
    { class: "comparison" },
    h("thead", {}, h("tr", {}, h("td", {}), variants.map(({ label }) => h("th", { scope: "col" }, label)))),
    h("tbody", {}, labels.map((label) => h("tr", {}, h("th", { scope: "row" }, label), rows.map((some) => h("td", {}, cell(some, label)))))),
  );
}

function tokenRows({ answer: { usage } }) {
  return [
    ["Visual tokens kept", usage.budget ? `${count(usage.visual_tokens)} of ${count(usage.budget)}` : count(usage.visual_tokens)],
    ["Frames looked at", count(usage.frames_kept ?? usage.frames)],
  ];
}

// Everything else, folded.
export function details(variant, describe, unit) {
  const { answer } = variant;
  const { usage, timings } = answer;
  const rows = [
    ...tokenRows(variant),
    usage.frames_kept !== undefined && usage.frames_kept !== usage.frames && ["Frames sampled", count(usage.frames)],
    [`${unit === "frame" ? "Frames" : "Segments"} weighed`, count(usage.segments)],
    ["Tokens in the prompt", count(usage.prompt_tokens)],
    usage.layer_tokens !== undefined && usage.layer_tokens !== usage.prompt_tokens && ["Tokens per layer, on average", figure(usage.layer_tokens)],
    ["Tokens in the answer", count(usage.new_tokens)],
    answer.waited_seconds > 0.05 && ["Waiting in the queue", duration(answer.waited_seconds)],
    ["Compressing for the question", duration(timings.compress ?? 0)],
    ["Writing the answer", duration(timings.answer ?? 0)],
    ["Computing in all", duration(timings.total ?? 0)],
    answer.answered_together > 1 && ["Answered together with", plural(answer.answered_together - 1, "other question")],
    ["Settings", describe(variant.settings)],
  ].filter(Boolean);
  return h(
    "details",
    { class: "more" },
    h("summary", {}, variant.label ? `More about ${variant.label}` : "More about this answer"),
    h("table", {}, h("tbody", {}, rows.map(([label, value]) => h("tr", {}, h("th", { scope: "row" }, label), h("td", {}, value))))),
    segmentTable(variant, unit),
  );
}

// The plot as a table, for those who cannot see it; made when it is opened.
function segmentTable({ lane }, unit) {
  if (!lane.segments.length) return null;
  const weighed = lane.segments.some(({ relevance }) => relevance !== null);
  const box = h("details", { class: "more" }, h("summary", {}, `Tokens of every ${unit}, as a table`));
  box.addEventListener("toggle", () => {
    if (!box.open || box.querySelector("table")) return;
    const head = ["Time", "Tokens", weighed && "Relevance"].filter(Boolean).map((name) => h("th", { scope: "col" }, name));
    const rows = lane.segments.map((s) =>
      h("tr", {}, h("th", { scope: "row" }, span(s.start, s.end)), h("td", {}, count(s.tokens)), weighed && h("td", {}, s.relevance === null ? "–" : s.relevance.toFixed(2))),
    );
    box.append(h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Tokens over time" }, h("table", {}, h("thead", {}, h("tr", {}, head)), h("tbody", {}, rows))));
  });
  return box;
}

// The segments that stood out, in the order of time: of those with more than the fewest tokens (which a small budget
// may put below the model's own least) the ones with most.
function outstanding({ segments }) {
  const least = Math.min(...segments.map(({ tokens }) => tokens));
  const above = segments.filter(({ tokens }) => tokens > least);
  const ranked = [...above].sort((a, b) => b.tokens - a.tokens || (b.relevance ?? 0) - (a.relevance ?? 0) || a.index - b.index);
  return { found: ranked.slice(0, MOST_THUMBNAILS).sort((a, b) => a.index - b.index), of: above.length, least };
}

// Their pictures: buttons that take the player there.
export function thumbnails({ lane }, thumbnail, unit, seek) {
  if (!lane.segments.length) return null; // an image
  const { found, of, least } = outstanding(lane);
  if (!found.length) return h("p", { class: "hint" }, `Every ${unit} kept the same number of tokens: ${count(least)}.`);
  return h(
    "div",
    { class: "outstanding" },
    h("h3", {}, "Where it looked"),
    h("p", { class: "hint" }, meaning(found, of, least, unit)),
    h("ul", { class: "strip" }, found.map((segment) => h("li", {}, card(segment, thumbnail(lane, segment), unit, seek)))),
  );
}

// What the pictures have in common.
function meaning(found, of, least, unit) {
  const shown = found.length;
  const alike = new Set(found.map(({ tokens }) => tokens)).size === 1;
  const kept = least ? `kept more than the least of ${plural(least, "token")}` : shown === 1 ? "was kept" : "were kept";
  if (of > shown) return `The ${shown} ${alike ? "most relevant" : "with most tokens"} of ${plural(of, unit)} that ${kept}, in order of time. Pick one to see it.`;
  return shown === 1 ? `The only ${unit} that ${kept}. Pick it to see it.` : `The ${plural(shown, unit)} that ${kept}, in order of time. Pick one to see it.`;
}

// The second that the picture of a segment is of: its middle frame, or the frame itself.
function moment({ start, end }, unit) {
  return unit === "frame" ? start : (start + end) / 2;
}

function card(segment, address, unit, seek) {
  const seconds = moment(segment, unit);
  const relevance = segment.relevance === null ? "" : `relevance ${segment.relevance.toFixed(2)}`;
  const picture = address && h("img", { src: address, alt: "", loading: "lazy", on: { error: ({ target }) => target.remove() } });
  return h(
    "button",
    { type: "button", class: "thumb", on: { click: () => seek(seconds) } },
    h("span", { class: "frame" }, picture),
    h("b", {}, h("span", { class: "spoken" }, "Go to "), clock(seconds)),
    h("span", {}, plural(segment.tokens, "token")),
    relevance && h("span", {}, relevance),
  );
}
