// One press of Ask: one question with one or two sets of settings, from the request to the last event.
//
// A turn is plain data, { id, at, question, variants }, so that it can be kept; a variant is the answer with one
// set of settings: { label, settings, state, text, … }. Whoever shows it hears of every change.

import { ApiError, ask, stop } from "./api.js";

export const ACTIVE = new Set(["asking", "queued", "running"]);

const CUT = { message: "The connection was cut before the answer was complete. Ask again.", code: null };

export function newTurn(question, sets) {
  return {
    id: `${Date.now().toString(36)}-${Math.random().toString(36).slice(2, 8)}`,
    at: Date.now(),
    question,
    variants: sets.map(({ label, settings }) => ({ label, settings, state: "asking", text: "" })),
  };
}

export class Asking {
  // changed(variant) is called after every event.
  constructor(video, turn, history, changed) {
    this.turn = turn;
    this.changed = changed;
    this.controllers = turn.variants.map(() => new AbortController());
    this.done = Promise.all(turn.variants.map((variant, place) => this.#one(video, variant, history, place)));
  }

  // At once for the reader; the server stops computing at the next chunk or piece.
  stop() {
    this.turn.variants.forEach((variant, place) => {
      if (!ACTIVE.has(variant.state)) return;
      variant.state = "stopped";
      if (variant.question) stop(variant.question).catch(() => {}); // the closed stream says the same
      this.controllers[place].abort();
      this.changed(variant);
    });
  }

  async #one(video, variant, history, place) {
    const { signal } = this.controllers[place];
    const body = { video: video.id, question: this.turn.question, settings: variant.settings };
    if (history.length) body.history = history;
    try {
      for await (const [name, data] of ask(body, signal)) {
        if (variant.state === "stopped") return;
        EVENTS[name]?.(variant, data);
        this.changed(variant);
      }
      if (ACTIVE.has(variant.state)) fail(variant, CUT, 0);
    } catch (error) {
      if (variant.state === "stopped") return;
      if (!(error instanceof ApiError)) console.error(error);
      const message = error instanceof ApiError ? error.message : CUT.message;
      fail(variant, { message, code: error.code ?? null }, error.status ?? 0, error.retryAfter);
    }
    this.changed(variant);
  }
}

function fail(variant, { message, code }, status, retryAfter = 0) {
  Object.assign(variant, { state: "failed", error: { message, code, status, retryAfter } });
}

// What each of the API's events does to a variant.
const EVENTS = {
  question(variant, { id, clip }) {
    Object.assign(variant, { question: id, clip });
  },
  queued(variant, { place, seconds }) {
    Object.assign(variant, { state: "queued", place, seconds });
  },
  started(variant, { reused }) {
    Object.assign(variant, { state: "running", reused, progress: null });
  },
  progress(variant, progress) {
    Object.assign(variant, { state: "running", progress });
  },
  clip(variant, clip) {
    Object.assign(variant, { clip: clip.id, span: spanOf(clip) });
  },
  piece(variant, { text }) {
    variant.text += text;
    variant.state = "running";
    variant.progress = null;
  },
  done(variant, answer) {
    const { text, segments, token_limits: limits, ...rest } = answer;
    variant.text = text;
    variant.answer = rest;
    variant.lane = { segments: segments.map(segmentOf), limits, clip: variant.clip };
    variant.state = "done";
    variant.progress = null;
  },
  stopped(variant, { text }) {
    variant.text = text || variant.text;
    variant.state = "stopped";
  },
  error(variant, { error, status }) {
    fail(variant, error, status ?? 0);
  },
};

function segmentOf({ index, start_seconds, end_seconds, relevance, tokens }) {
  return { index, start: start_seconds, end: end_seconds, relevance, tokens };
}

// Where on the player's clock the video begins and ends.
function spanOf({ start_seconds = 0, duration_seconds }) {
  return duration_seconds ? { begin: start_seconds ?? 0, end: (start_seconds ?? 0) + duration_seconds } : null;
}
