// The questions about one video: the log, the box to ask in, and which answer the timeline shows.

import { segmentThumbnail } from "./api.js";
import { ACTIVE, Asking, newTurn } from "./asking.js";
import { announce, byId, h, replace } from "./dom.js";
import * as kept from "./history.js";
import * as link from "./link.js";
import { copy } from "./notices.js";
import { status, TurnView } from "./turn.js";

const ABOVE_PX = 80; // of the page, above the log
const TALLEST_PX = 200; // of the question box, before it scrolls

export class Conversation {
  // player: to seek and to draw on; settings; info: of the server.
  constructor(player, settings, info) {
    Object.assign(this, { player, settings, info, turns: [], views: new Map(), asking: null });
    this.box = byId("question");
    this.log = byId("log");
    this.actions = {
      seek: (seconds) => player.show(seconds),
      select: (turn) => {
        this.#select(turn);
        player.reveal();
      },
      retry: (turn) => this.#retry(turn),
      copy: (text) => copy(text, "The answer is copied."),
      share: (turn) => this.#share(turn),
      describe: (values) => settings.describe(values),
      thumbnail: segmentThumbnail,
      unit: info.model.segment_name,
    };
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.ask(this.box.value);
    });
    this.box.addEventListener("keydown", (event) => this.#key(event));
    this.box.addEventListener("input", () => this.#grow());
    byId("stop").addEventListener("click", () => this.stop());
    byId("clear").addEventListener("click", () => this.#clear());
    this.box.maxLength = info.limits.question_characters;
  }

  open(video, question = "") {
    this.close();
    // Back at the same video, as after signing in again, what was being written is still there.
    if (question || this.left !== video.id) this.box.value = question;
    this.video = video;
    this.turns = kept.load(this.info.model.id, video.id);
    this.#problem("");
    this.#grow();
    this.#render();
    this.#select(this.turns.findLast(charted));
    this.#scroll();
  }

  focus() {
    if (!touch()) this.box.focus({ preventScroll: true });
  }

  // Leaves the video; what is being asked is stopped, and kept as that.
  close() {
    this.stop();
    this.asking = null;
    this.#busy(false);
    this.left = this.video?.id ?? this.left;
    this.video = null;
  }

  async ask(question) {
    const text = question.trim();
    if (!text) return this.#problem("Write a question first.");
    if (this.asking || !this.video) return;
    this.#problem("");
    const { video, turns } = this;
    const history = this.settings.history ? turns.filter(answered).flatMap(messages).slice(-this.info.limits.history_messages) : [];
    const turn = newTurn(text, this.settings.chosen());
    turns.push(turn);
    this.box.value = "";
    this.#grow();
    this.#render();
    this.#scroll();
    const asking = new Asking(video, turn, history, (variant) => this.#changed(turn, variant));
    this.asking = asking;
    this.#busy(true);
    await asking.done;
    kept.save(this.info.model.id, video.id, turns);
    if (this.asking !== asking) return; // left meanwhile
    this.asking = null;
    this.#busy(false);
    if (turns.includes(turn)) this.#ended(turn);
  }

  stop() {
    this.asking?.stop();
  }

  #ended(turn) {
    const failed = turn.variants.find(({ state }) => state === "failed");
    if (failed && !this.box.value) this.box.value = turn.question;
    this.#grow();
    if (failed) announce(`The question could not be answered. ${failed.error.message}`);
    else announce(turn.variants.map(({ label, text, state }) => `${label} ${state === "stopped" ? "Stopped." : "Answer:"} ${text}`).join(" "));
    if (charted(turn)) this.#select(turn);
    byId("clear").hidden = false;
  }

  #changed(turn, variant) {
    const view = this.views.get(turn);
    if (!view) return;
    const near = this.#near();
    view.update(variant);
    if (variant.span && this.turns.includes(turn)) this.player.setSpan(variant.span);
    this.#speak(variant);
    if (near) this.#scroll();
  }

  // A change of stage is worth a word to screen readers; every chunk is not.
  #speak(variant) {
    if (!ACTIVE.has(variant.state)) return;
    const stage = `${variant.state} ${variant.progress?.stage ?? ""} ${variant.place ?? ""}`;
    if (this.spoken === stage || variant.text) return;
    this.spoken = stage;
    announce(status(variant).text);
  }

  // The newest turn with segments, or the one that was chosen, is what the timeline draws.
  #select(turn) {
    for (const [each, view] of this.views) view.setSelected(each === turn);
    const variants = turn?.variants.filter(({ lane }) => lane?.segments.length) ?? [];
    const spanning = variants.find(({ span }) => span);
    if (spanning) this.player.setSpan(spanning.span);
    this.player.setLanes(variants.map(({ label, lane }) => ({ ...lane, label, unit: this.info.model.segment_name })));
  }

  #retry(turn) {
    if (this.asking) return;
    this.turns.splice(this.turns.indexOf(turn), 1);
    if (this.box.value.trim() === turn.question) this.box.value = "";
    const draft = this.box.value;
    this.ask(turn.question);
    this.box.value = draft;
    this.#grow();
  }

  #share(turn) {
    const seconds = this.player.time;
    const address = new URL(link.write({ video: this.video.id, question: turn.question, seconds, settings: turn.variants[0].settings }), location.href);
    const whom = this.video.source === "upload" ? "The link is copied. It opens in this browser only: uploads are private." : "The link to this question is copied.";
    copy(address.href, whom);
  }

  #clear() {
    this.stop();
    kept.forget(this.info.model.id, this.video.id);
    this.turns.length = 0; // the same array: a question that is ending now must not bring the others back
    this.#render();
    this.#select(undefined);
    announce("The questions about this video are cleared.");
    this.box.focus();
  }

  // The log.

  #render() {
    const views = new Map(this.turns.map((turn) => [turn, this.views.get(turn) ?? new TurnView(turn, this.actions)]));
    this.views = views;
    replace(this.log, this.turns.length ? [...views.values()].map(({ element }) => element) : this.#empty());
    byId("clear").hidden = !this.turns.length;
  }

  #empty() {
    const { questions } = this.video;
    const pick = (question) => {
      this.box.value = question;
      this.#grow();
      this.box.focus();
    };
    return h(
      "div",
      { class: "empty" },
      h("p", {}, "Ask anything about it. The first question opens the video, which takes a while for long ones; further questions come much faster."),
      questions.length > 0 && h("p", { class: "hint" }, "For example:"),
      h("ul", { class: "suggestions" }, questions.map((question) => h("li", {}, h("button", { type: "button", on: { click: () => pick(question) } }, h("span", {}, question))))),
    );
  }

  // Whether the end of the log is in sight, so that growing text should stay in sight.
  #near() {
    const scrolled = this.log.scrollHeight > this.log.clientHeight + 1 ? this.log : document.scrollingElement;
    return scrolled.scrollHeight - scrolled.scrollTop - scrolled.clientHeight < 160;
  }

  // The end of the newest turn; of one that is taller than the view, where its answer begins.
  #scroll() {
    const last = this.views.get(this.turns.at(-1))?.element;
    if (!last) return this.log.scrollTo(0, 0);
    const room = Math.min(this.log.clientHeight, innerHeight - byId("composer").offsetHeight - ABOVE_PX);
    const tall = last.offsetHeight > room;
    (tall ? last.querySelector(".answers") : last).scrollIntoView({ block: tall ? "start" : "end", behavior: "auto" });
  }

  // The box.

  #busy(on) {
    byId("stop").hidden = !on;
    byId("ask").hidden = on;
    if (on) byId("stop").focus();
    else if (document.activeElement === document.body) this.focus();
  }

  #key(event) {
    const plain = !event.shiftKey && !event.isComposing && !touch();
    if (event.key !== "Enter" || !plain) return;
    event.preventDefault();
    this.ask(this.box.value);
  }

  #problem(text) {
    byId("question-error").textContent = text;
    if (text) {
      this.box.setAttribute("aria-invalid", "true");
      this.box.focus();
    } else {
      this.box.removeAttribute("aria-invalid");
    }
  }

  #grow() {
    this.box.style.setProperty("height", "auto");
    this.box.style.setProperty("height", `${Math.min(this.box.scrollHeight + 2, TALLEST_PX)}px`);
  }
}

// On touch screens Enter makes a line, and a focus nobody asked for would raise the keyboard.
function touch() {
  return matchMedia("(pointer: coarse)").matches;
}

function charted(turn) {
  return turn.variants.some(({ state, lane }) => state === "done" && lane.segments.length);
}

function answered(turn) {
  return turn.variants[0].state === "done" && turn.variants[0].text.trim() !== "";
}

function messages(turn) {
  return [
    { role: "user", content: turn.question },
    { role: "assistant", content: turn.variants[0].text },
  ];
}
