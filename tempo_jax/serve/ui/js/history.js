// Questions and answers of earlier visits, kept by this browser alone, per model and video.

const PREFIX = "tempo.turns.";
const MOST_TURNS = 40; // per video

const key = (model, video) => `${PREFIX}${model}.${video}`;

export function load(model, video) {
  try {
    const kept = JSON.parse(localStorage.getItem(key(model, video)) ?? "null");
    return (kept?.turns ?? []).map(unpacked);
  } catch {
    return []; // no storage, or not of ours: begin anew
  }
}

// Keeps the turns that came to an end; those that failed keep their question in the page only.
export function save(model, video, turns) {
  const ended = turns.filter((turn) => turn.variants.every(({ state }) => state === "done" || state === "stopped"));
  if (!ended.length) return forget(model, video);
  const text = JSON.stringify({ at: Date.now(), turns: ended.slice(-MOST_TURNS).map(packed) });
  for (;;) {
    try {
      return localStorage.setItem(key(model, video), text);
    } catch {
      if (!dropOldest(key(model, video))) return; // storage is full or forbidden: the page works without
    }
  }
}

export function forget(model, video) {
  attempt(() => localStorage.removeItem(key(model, video)));
}

export function forgetAll() {
  attempt(() => ours().forEach((name) => localStorage.removeItem(name)));
}

function attempt(action) {
  try {
    action();
  } catch {
    // Storage is forbidden: there is nothing to forget.
  }
}

function ours() {
  return Object.keys(localStorage).filter((name) => name.startsWith(PREFIX));
}

function dropOldest(except) {
  const age = (name) => {
    try {
      return JSON.parse(localStorage.getItem(name)).at;
    } catch {
      return 0;
    }
  };
  const [oldest] = ours()
    .filter((name) => name !== except)
    .sort((a, b) => age(a) - age(b));
  if (!oldest) return false;
  localStorage.removeItem(oldest);
  return true;
}

// Segments are many: as rows of numbers they take a third of the room.

function packed(turn) {
  const variants = turn.variants.map(({ lane, ...variant }) => ({
    ...variant,
    lane: lane && { ...lane, segments: lane.segments.map((s) => [s.start, s.end, s.relevance, s.tokens]) },
  }));
  return { ...turn, variants };
}

function unpacked(turn) {
  const variants = turn.variants.map(({ lane, ...variant }) => ({
    ...variant,
    lane: lane && {
      ...lane,
      segments: lane.segments.map(([start, end, relevance, tokens], index) => ({ index, start, end, relevance, tokens })),
    },
  }));
  return { ...turn, variants };
}
