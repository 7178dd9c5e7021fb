// The video (or image) with its controls. The timeline below it is its seek bar.

import { button, h, icon, replace } from "./dom.js";
import { clock } from "./format.js";
import { Timeline } from "./timeline.js";

const RATES = [1, 1.5, 2, 4];
const UNPLAYABLE = "Your browser cannot play this file. Questions work all the same; once one is answered, the timeline shows a picture of every part.";

export class Player {
  // thumbnail(lane, segment): address of a segment's picture, or null.
  constructor(thumbnail) {
    this.thumbnail = thumbnail;
    this.lanes = [];
    this.timeline = new Timeline({ onSeek: (seconds) => this.#sought(seconds), thumbnail });
    this.element = h("div", { class: "player" });
  }

  load(video) {
    this.close();
    this.video = video;
    this.lanes = [];
    this.playable = Boolean(video.media_url);
    this.known = false; // whether the video's length is
    this.pending = undefined; // second to go to once there is something to show
    this.shown = false; // whether there has been (readyState falls again while it seeks)
    this.zero = 0; // on the browser's clock, where the file begins
    this.moved = false; // whether it has been sent anywhere
    this.timeline.setLanes([]);
    this.timeline.setSpan(0, 1);
    if (video.kind === "image") return this.#image();
    this.stage = h("div", { class: "stage" });
    replace(this.element, this.stage, this.#controls(), this.timeline.element);
    this.#enable(false);
    if (this.playable) this.#media();
    else this.#unplayable();
  }

  close() {
    this.#still();
    if (this.media) {
      this.media.pause();
      this.media.removeAttribute("src");
      this.media.load(); // lets go of the connection
    }
    this.media = null;
    replace(this.element);
  }

  // Where the video begins and ends on its clock, from the server: for files that the browser cannot play, or whose
  // length it takes for less.
  setSpan({ begin, end }) {
    if (this.video.kind === "image") return;
    if (this.known && this.playable) {
      if (end > this.timeline.end + 0.5) this.timeline.setSpan(this.timeline.begin, end);
      return;
    }
    this.known = true;
    this.timeline.setSpan(begin, end);
    this.#enable(true);
    this.#tell(begin);
  }

  setLanes(lanes) {
    this.lanes = lanes;
    this.timeline.setLanes(lanes);
    if (!this.playable && this.video?.kind !== "image") this.#picture(this.timeline.time);
  }

  get time() {
    return this.timeline.time;
  }

  // To the second, and into view.
  show(seconds) {
    if (this.video.kind !== "image") this.#sought(seconds);
    this.reveal();
  }

  reveal() {
    this.element.scrollIntoView({ block: "nearest", behavior: calm() ? "auto" : "smooth" });
  }

  #image() {
    this.known = true;
    const fail = () => replace(this.element, h("p", { class: "stage-note" }, "Your browser cannot show this image. Questions work all the same."));
    const address = this.video.media_url ?? this.video.thumbnail_url;
    const picture = h("img", { src: address, alt: `The image ${this.video.name}`, on: { error: fail } });
    replace(this.element, h("div", { class: "stage" }, picture));
  }

  #media() {
    const { video } = this;
    const media = h("video", {
      src: video.media_url,
      poster: video.thumbnail_url,
      preload: "metadata",
      playsinline: true,
      "aria-label": video.name,
    });
    this.media = media;
    const on = (kind, listener) => media.addEventListener(kind, () => this.media === media && listener());
    // Sound alone has no size: there is nothing to see.
    on("loadedmetadata", () => (media.videoWidth ? this.#measure() : this.#unplayable()));
    on("durationchange", () => this.#measure());
    on("loadeddata", () => this.#calibrate());
    on("error", () => this.#unplayable());
    for (const kind of ["timeupdate", "seeked", "ended"]) on(kind, () => this.#tell(this.#now));
    on("play", () => this.#playing());
    on("pause", () => this.#playing());
    on("fullscreenchange", () => (media.controls = document.fullscreenElement === media));
    media.addEventListener("click", () => media.controls || this.toggle());
    replace(this.stage, media);
  }

  // Once the browser knows how long it is; of some recordings it learns that late, and the server tells first.
  #measure() {
    const { duration, videoWidth } = this.media;
    if (!videoWidth || !Number.isFinite(duration) || duration <= this.zero) return;
    this.known = true;
    this.timeline.setSpan(0, duration - this.zero);
    this.#enable(true);
    this.#tell(this.#now);
  }

  // The server counts from where the file begins. Some browsers start their clock there too, others at what the file
  // says its first picture's time is: then that is where they stand before anybody has moved them.
  #calibrate() {
    const { currentTime, duration, paused } = this.media;
    this.shown = true;
    if (paused && !this.moved && currentTime < duration) this.zero = currentTime;
    this.#measure();
    if (this.pending !== undefined) this.#move(this.pending);
  }

  get #now() {
    return this.media.currentTime - this.zero;
  }

  #move(seconds) {
    this.moved = true;
    this.media.currentTime = seconds + this.zero;
  }

  #unplayable() {
    this.playable = false;
    this.media = null;
    this.#enable(this.known);
    this.note = h("p", { class: "stage-note", role: "status" }, UNPLAYABLE);
    this.still = h("img", { class: "still", alt: "", src: this.video.thumbnail_url, on: { error: ({ target }) => (target.hidden = true) } });
    replace(this.stage, this.still, this.note);
    this.bar.classList.add("still-only");
  }

  // The picture of the segment at this second, where there is nothing to play.
  #picture(seconds) {
    const [lane] = this.lanes;
    const address = lane && this.thumbnail(lane, this.timeline.segmentAt(lane, seconds));
    if (!address || !this.still) return;
    this.still.hidden = false;
    this.still.src = address;
    this.still.alt = `The video at ${clock(seconds)}`;
    this.note.hidden = true;
  }

  #sought(seconds) {
    this.pending = seconds;
    if (this.media && this.shown) this.#move(seconds);
    else if (!this.playable) this.#picture(seconds);
    this.#tell(seconds);
  }

  #tell(seconds) {
    this.timeline.setTime(seconds);
    this.readout.textContent = this.known ? `${clock(seconds)} / ${clock(this.timeline.end)}` : "";
  }

  // Controls.

  #controls() {
    this.play = button("Play", { iconName: "play", iconOnly: true, on: { click: () => this.toggle() } });
    this.mute = button("Mute", { iconName: "sound", iconOnly: true, "aria-pressed": "false", on: { click: () => this.#mute() } });
    this.rate = h(
      "select",
      { "aria-label": "Speed", class: "rate", on: { change: ({ target }) => (this.media.playbackRate = Number(target.value)) } },
      RATES.map((rate) => h("option", { value: rate }, `${rate}×`)),
    );
    this.full = button("Full screen", { iconName: "full", iconOnly: true, on: { click: () => this.#fullScreen() } });
    this.readout = h("span", { class: "readout" });
    this.bar = h("div", { class: "controls" }, this.play, this.readout, h("span", { class: "grow" }), this.rate, this.mute, this.full);
    return this.bar;
  }

  #enable(on) {
    for (const control of [this.play, this.mute, this.rate, this.full]) control.disabled = !on || !this.playable;
    this.timeline.setEnabled(on);
  }

  toggle() {
    if (!this.media || !this.known) return;
    if (this.media.paused) this.media.play().catch(() => {}); // refused, or closed meanwhile: it stays paused
    else this.media.pause();
  }

  #playing() {
    const { paused } = this.media;
    label(this.play, paused ? "Play" : "Pause", paused ? "play" : "pause");
    if (paused) this.#still();
    else this.#follow();
  }

  // While it plays the playhead moves with every frame, not with the four events a second.
  #follow() {
    this.#still();
    const step = () => {
      if (!this.media) return;
      this.#tell(this.#now);
      this.frame = requestAnimationFrame(step);
    };
    if (!calm()) this.frame = requestAnimationFrame(step);
  }

  #still() {
    cancelAnimationFrame(this.frame);
  }

  #mute() {
    this.media.muted = !this.media.muted;
    this.mute.setAttribute("aria-pressed", String(this.media.muted));
    replace(this.mute, icon(this.media.muted ? "muted" : "sound"));
  }

  #fullScreen() {
    const { media } = this;
    // Phones of one maker know only their own way.
    const request = media.requestFullscreen ?? media.webkitEnterFullscreen;
    Promise.resolve(request?.call(media)).catch(() => {});
  }
}

function label(element, text, iconName) {
  element.setAttribute("aria-label", text);
  element.title = text;
  replace(element, icon(iconName));
}

// Whether the visitor has asked for little movement.
function calm() {
  return matchMedia("(prefers-reduced-motion: reduce)").matches;
}
