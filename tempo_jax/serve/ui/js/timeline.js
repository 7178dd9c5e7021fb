// The video's time axis: where the tokens went, how relevant each part was, and the seek bar, in one.
//
// To the keyboard and to screen readers it is one slider, so one tab stop however many segments there are.

import { h, replace, svg } from "./dom.js";
import { clock, count, span, ticks } from "./format.js";

const TRACK = 14; // height of the seek bar, px
const AXIS = 20; // of the times under it
const GAP = 6; // between lanes
const LANE = { 1: 76, 2: 52 }; // height of a lane, by how many there are
const STEP_SECONDS = 5; // of the arrow keys, for videos that are longer than a minute

export class Timeline {
  // onSeek(seconds); thumbnail(lane, segment) -> address of a picture, or null.
  constructor({ onSeek, thumbnail }) {
    this.onSeek = onSeek;
    this.thumbnail = thumbnail;
    this.begin = 0;
    this.end = 1;
    this.time = 0;
    this.lanes = [];
    this.width = 0;
    this.plot = svg("svg", { class: "plot", "aria-hidden": "true", focusable: "false" });
    this.slider = h(
      "div",
      {
        class: "slider",
        role: "slider",
        tabindex: "0",
        "aria-label": "Position in the video",
        "aria-orientation": "horizontal",
        "aria-describedby": "timeline-keys",
      },
      this.plot,
    );
    this.tip = h("div", { class: "tip", hidden: true, "aria-hidden": "true" });
    this.legend = h("div", { class: "legend" });
    this.keys = h(
      "p",
      { class: "spoken", id: "timeline-keys" },
      "Arrow keys move in small steps, Page Up and Page Down by segments, Home and End to the ends.",
    );
    this.element = h("div", { class: "timeline" }, this.legend, this.slider, this.tip, this.keys);
    this.#listen();
    new ResizeObserver(() => this.#fit()).observe(this.slider);
  }

  setSpan(begin, end) {
    [this.begin, this.end] = [begin, Math.max(end, begin + 0.05)];
    this.#draw();
  }

  // Lanes: [{ label, segments: [{ start, end, relevance, tokens }], limits: [least, most], unit }].
  setLanes(lanes) {
    this.lanes = lanes.filter((lane) => lane.segments.length);
    this.#explain();
    this.#draw();
  }

  // Before the video's length is known there is nothing to seek in.
  setEnabled(on) {
    this.enabled = on;
    this.slider.setAttribute("aria-disabled", String(!on));
    this.element.classList.toggle("waiting", !on);
  }

  setTime(seconds) {
    this.time = Math.min(Math.max(seconds, this.begin), this.end);
    this.#place();
  }

  segmentAt(lane, seconds) {
    const { segments } = lane;
    let [low, high] = [0, segments.length - 1];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (segments[middle].start <= seconds + 1e-6) low = middle;
      else high = middle - 1;
    }
    return segments[low];
  }

  // Geometry.

  get #height() {
    const lanes = this.lanes.length;
    return lanes * (LANE[lanes] ?? LANE[2]) + lanes * GAP + TRACK + AXIS;
  }

  #x(seconds) {
    return ((seconds - this.begin) / (this.end - this.begin)) * this.width;
  }

  #seconds(event) {
    const box = this.slider.getBoundingClientRect();
    const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    return this.begin + share * (this.end - this.begin);
  }

  #fit() {
    const width = Math.round(this.slider.clientWidth);
    if (width === this.width) return;
    this.width = width;
    this.#draw();
  }

  // Drawing.

  #draw() {
    if (!this.width) return;
    const height = this.#height;
    this.plot.setAttribute("viewBox", `0 0 ${this.width} ${height}`);
    this.plot.setAttribute("height", height);
    const laneHeight = LANE[this.lanes.length] ?? LANE[2];
    const parts = this.lanes.map((lane, place) => this.#lane(lane, place * (laneHeight + GAP), laneHeight));
    const top = this.lanes.length * (laneHeight + GAP);
    this.played = svg("rect", { class: "played", x: 0, y: top, height: TRACK, rx: 4 });
    this.cursor = svg("line", { class: "cursor", y1: 0, y2: top + TRACK, visibility: "hidden" });
    this.head = svg("g", { class: "head" },
      svg("line", { y1: 0, y2: top, x1: 0, x2: 0 }),
      svg("circle", { cx: 0, cy: top + TRACK / 2, r: 8 }),
    );
    replace(
      this.plot,
      parts,
      svg("rect", { class: "track", x: 0, y: top, width: this.width, height: TRACK, rx: 4 }),
      this.played,
      this.#axis(top + TRACK),
      this.cursor,
      this.head,
    );
    this.#place();
  }

  #lane({ segments, limits, label }, top, height) {
    const most = Math.max(limits[1], ...segments.map((s) => s.tokens), 1);
    const bottom = top + height;
    const y = (share) => bottom - share * (height - 8);
    let path = `M${this.#x(segments[0].start).toFixed(1)} ${bottom}`;
    const points = [];
    segments.forEach((segment, index) => {
      const [from, to] = [this.#x(segment.start), this.#x(segments[index + 1]?.start ?? segment.end)];
      path += `V${y(segment.tokens / most).toFixed(1)}H${to.toFixed(1)}`;
      if (segment.relevance !== null) points.push(`${((from + to) / 2).toFixed(1)},${y(segment.relevance).toFixed(1)}`);
    });
    path += `V${bottom}Z`;
    return svg(
      "g",
      {},
      svg("rect", { class: "lane", x: 0, y: top, width: this.width, height, rx: 4 }),
      svg("path", { class: "tokens", d: path }),
      points.length > 1 && svg("polyline", { class: "relevance", points: points.join(" ") }),
      points.length === 1 && svg("circle", { class: "relevance", cx: points[0].split(",")[0], cy: points[0].split(",")[1], r: 3 }),
      label && svg("text", { class: "name", x: 8, y: top + 18 }, label),
    );
  }

  #axis(top) {
    const most = Math.max(2, Math.floor(this.width / 72));
    return ticks(this.begin, this.end, most).map((tick) => {
      const x = this.#x(tick);
      const anchor = x < 20 ? "start" : x > this.width - 24 ? "end" : "middle";
      return svg("text", { class: "time", x: x.toFixed(1), y: top + 15, "text-anchor": anchor }, clock(tick));
    });
  }

  #place() {
    if (this.head) {
      const x = this.#x(this.time);
      this.head.setAttribute("transform", `translate(${Math.min(Math.max(x, 0), this.width).toFixed(1)} 0)`);
      this.played.setAttribute("width", Math.max(0, x).toFixed(1));
    }
    const said = this.lanes.map((lane) => this.#said(lane, this.segmentAt(lane, this.time)));
    const text = [`${clock(this.time)} of ${clock(this.end)}`, ...said].join("; ");
    if (text === this.slider.getAttribute("aria-valuetext")) return; // it plays: 60 times a second is too much
    this.slider.setAttribute("aria-valuemin", this.begin.toFixed(1));
    this.slider.setAttribute("aria-valuemax", this.end.toFixed(1));
    this.slider.setAttribute("aria-valuenow", this.time.toFixed(1));
    this.slider.setAttribute("aria-valuetext", text);
  }

  #said(lane, segment) {
    const name = lane.label ? `${lane.label}: ` : "";
    const relevance = segment.relevance === null ? "" : `, relevance ${segment.relevance.toFixed(2)}`;
    return `${name}${count(segment.tokens)} tokens${relevance}`;
  }

  #explain() {
    if (!this.lanes.length) return replace(this.legend);
    const { limits, segments, unit } = this.lanes[0];
    const weighed = this.lanes.some((lane) => lane.segments.some((s) => s.relevance !== null));
    const most = Math.max(...this.lanes.flatMap((lane) => lane.segments.map((s) => s.tokens)), limits[1]);
    replace(
      this.legend,
      h("span", {}, h("i", { class: "swatch tokens" }), `tokens kept per ${unit ?? "segment"} (full height: ${count(most)})`),
      weighed && h("span", {}, h("i", { class: "swatch relevance" }), "relevance to the question (0 to 1)"),
      h("span", { class: "spoken" }, `${count(segments.length)} ${unit ?? "segment"}s.`),
    );
  }

  // Pointer and keys.

  #listen() {
    const { slider } = this;
    slider.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      slider.setPointerCapture(event.pointerId);
      this.dragging = true;
      this.#seek(this.#seconds(event));
    });
    slider.addEventListener("pointermove", (event) => {
      this.#hover(event);
      if (this.dragging) this.#seek(this.#seconds(event));
    });
    for (const kind of ["pointerup", "pointercancel"]) {
      slider.addEventListener(kind, () => (this.dragging = false));
    }
    slider.addEventListener("pointerleave", () => this.#leave());
    slider.addEventListener("pointerup", (event) => event.pointerType !== "mouse" && this.#leave());
    slider.addEventListener("keydown", (event) => this.#key(event));
  }

  #seek(seconds) {
    this.setTime(seconds);
    this.onSeek(this.time);
  }

  #hover(event) {
    const seconds = this.#seconds(event);
    const x = this.#x(seconds);
    for (const end of ["x1", "x2"]) this.cursor?.setAttribute(end, x.toFixed(1));
    this.cursor?.setAttribute("visibility", "visible");
    const lines = this.lanes.map((lane) => {
      const segment = this.segmentAt(lane, seconds);
      return h("span", {}, this.#said(lane, segment));
    });
    const [lane] = this.lanes;
    const segment = lane && this.segmentAt(lane, seconds);
    const picture = segment && this.thumbnail(lane, segment);
    const times = segment ? span(segment.start, segment.end) : clock(seconds);
    if (picture && this.tipPicture?.getAttribute("src") !== picture) {
      this.tipPicture = h("img", { src: picture, alt: "", on: { error: ({ target }) => (target.hidden = true) } });
    }
    replace(this.tip, picture && this.tipPicture, h("b", {}, times), lines);
    this.tip.hidden = false;
    const half = this.tip.offsetWidth / 2;
    const place = Math.min(Math.max(x, half), Math.max(half, this.width - half));
    this.tip.style.setProperty("--x", `${place.toFixed(0)}px`);
    this.tip.style.setProperty("--up", `${this.slider.offsetHeight + 6}px`);
  }

  #leave() {
    this.tip.hidden = true;
    this.cursor?.setAttribute("visibility", "hidden");
  }

  #key(event) {
    if (!this.enabled || event.ctrlKey || event.metaKey || event.altKey) return;
    const length = this.end - this.begin;
    const small = length > 60 ? STEP_SECONDS : Math.max(0.1, length / 20);
    const moves = {
      ArrowLeft: () => this.time - small,
      ArrowDown: () => this.time - small,
      ArrowRight: () => this.time + small,
      ArrowUp: () => this.time + small,
      PageUp: () => this.#neighbor(1),
      PageDown: () => this.#neighbor(-1),
      Home: () => this.begin,
      End: () => this.end,
    };
    if (!(event.key in moves)) return;
    event.preventDefault();
    this.#seek(moves[event.key]());
  }

  // The start of the segment after or before the one at hand; a tenth of the video where there are none.
  #neighbor(by) {
    const [lane] = this.lanes;
    if (!lane) return this.time + (by * (this.end - this.begin)) / 10;
    const place = lane.segments.indexOf(this.segmentAt(lane, this.time)) + by;
    return lane.segments[Math.min(Math.max(place, 0), lane.segments.length - 1)].start;
  }
}
