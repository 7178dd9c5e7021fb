// The view of one turn: the question, and its answer or two, from waiting to the last figure.

import { ACTIVE } from "./asking.js";
import { button, h, icon, replace } from "./dom.js";
import { comparison, details, headlineView, thumbnails } from "./figures.js";
import { count, left } from "./format.js";

const STAGES = {
  open: "Decoding and encoding the video",
  compress: "Looking at the video for your question",
  answer: "Writing the answer",
};

// What is going on, as { text, done, total } (no total: nobody knows how long).
export function status(variant) {
  const { state, progress } = variant;
  if (state === "asking") return { text: "Sending the question …" };
  if (state === "queued") {
    const wait = variant.seconds ? `, ${left(variant.seconds).replace(" left", "")}` : "";
    const before = variant.place - 1;
    return { text: before > 0 ? `In the queue: ${count(before)} before you${wait}` : `Next in the queue${wait}` };
  }
  if (!progress) return { text: variant.text ? STAGES.answer : variant.reused ? "Getting ready …" : "Opening the video …" };
  const { stage, done, total, unit, seconds_left: seconds } = progress;
  const ending = seconds ? `, ${left(seconds)}` : "";
  if (stage === "answer") return { text: STAGES.answer };
  const parts = total ? `: ${count(done)} of ${count(total)} ${unit}` : "";
  return { text: `${STAGES[stage] ?? "Working"}${parts}${ending}`, done, total };
}

export class TurnView {
  // actions: { seek, select, retry, copy, share, describe, thumbnail, unit }.
  constructor(turn, actions) {
    this.turn = turn;
    this.actions = actions;
    this.ended = new Set();
    this.parts = turn.variants.map((variant) => this.#variant(variant));
    this.foot = h("div", { class: "turn-foot" });
    this.element = h(
      "article",
      { class: turn.variants.length > 1 ? "turn two" : "turn", "aria-label": `Question: ${turn.question.slice(0, 80)}` },
      h("h2", { class: "question" }, h("span", { class: "spoken" }, "You asked: "), turn.question),
      h("div", { class: "answers" }, this.parts.map(({ element }) => element)),
      this.foot,
    );
    turn.variants.forEach((variant) => this.update(variant));
  }

  #variant(variant) {
    const parts = {
      status: h("p", { class: "status" }),
      bar: h("progress", { "aria-label": "Progress" }),
      text: h("p", { class: "answer" }),
      after: h("div", { class: "after" }),
    };
    const head = variant.label && h("h3", { class: "variant" }, h("span", { class: `tag ${variant.label}` }, variant.label), " ", this.actions.describe(variant.settings));
    parts.element = h("div", { class: "variant-box" }, head, parts.status, parts.bar, parts.text, parts.after);
    return parts;
  }

  update(variant) {
    const parts = this.parts[this.turn.variants.indexOf(variant)];
    const active = ACTIVE.has(variant.state);
    const now = active ? status(variant) : null;
    parts.element.classList.toggle("active", active);
    parts.status.hidden = !active || variant.text !== "";
    parts.bar.hidden = parts.status.hidden;
    if (now && parts.status.textContent !== now.text) parts.status.textContent = now.text;
    if (now?.total) {
      parts.bar.max = now.total;
      parts.bar.value = now.done;
    } else {
      parts.bar.removeAttribute("value");
    }
    parts.text.hidden = variant.text === "";
    if (parts.text.textContent !== variant.text) parts.text.textContent = variant.text;
    if (!active) this.#ended(variant, parts);
  }

  #ended(variant, parts) {
    if (this.ended.has(variant)) return;
    this.ended.add(variant);
    replace(parts.after, AFTER[variant.state](variant, this.actions, this.turn));
    if (this.turn.variants.every(({ state }) => !ACTIVE.has(state))) this.#finish();
  }

  #finish() {
    const { turn, actions } = this;
    const done = turn.variants.filter(({ state }) => state === "done");
    const text = turn.variants.map(({ label, text }) => (label ? `${label}: ${text}` : text)).join("\n");
    this.mark = button("On the timeline", { iconName: "chart", class: "quiet small", "aria-pressed": "false", on: { click: () => actions.select(turn) } });
    const charted = done.some(({ lane }) => lane.segments.length);
    replace(
      this.foot,
      done.length > 1 && comparison(done),
      h(
        "div",
        { class: "actions", role: "group", "aria-label": "This answer" },
        text.trim() && button("Copy", { iconName: "copy", class: "quiet small", on: { click: () => actions.copy(text) } }),
        button("Share link", { iconName: "link", class: "quiet small", on: { click: () => actions.share(turn) } }),
        !done.length && button("Ask again", { iconName: "again", class: "quiet small", on: { click: () => actions.retry(turn) } }),
        charted && this.mark,
      ),
    );
  }

  // Whether the timeline shows this turn.
  setSelected(selected) {
    this.mark?.setAttribute("aria-pressed", String(selected));
  }
}

// What follows the text, by how it ended.
const AFTER = {
  done(variant, { describe, thumbnail, unit, seek }, turn) {
    const { answer } = variant;
    const alone = turn.variants.length === 1;
    const looked = thumbnails(variant, thumbnail, unit, seek);
    const folded = looked && h("details", { class: "more" }, h("summary", {}, `Where ${variant.label} looked`), looked);
    const cut = answer.finish_reason === "length" && `The answer was cut at ${count(answer.usage.new_tokens)} tokens: the settings allow longer ones.`;
    const empty = !variant.text.trim() && "The model answered with nothing. Put the question in other words.";
    return [
      [cut, empty, ...(answer.warnings ?? [])].filter(Boolean).map((text) => h("p", { class: "warning" }, icon("warning"), h("span", {}, text))),
      alone && headlineView(variant),
      alone ? looked : folded,
      details(variant, describe, unit),
    ];
  },
  stopped(variant) {
    return h("p", { class: "hint" }, variant.text ? "Stopped here." : "Stopped before the answer began.");
  },
  failed({ error }) {
    const title = error.code === "queue_full" ? "The server is busy" : "This question could not be answered";
    const kept = h("p", { class: "hint" }, "Your question is kept.");
    return h("div", { class: "error", role: "alert" }, icon("warning"), h("div", {}, h("strong", {}, title), h("p", {}, error.message), kept));
  },
};
