// The address as the page's state: #video=ID&question=…&t=SECONDS&set.budget=1024. Behind the #, so none of it
// is sent to the server.

const SETTING = "set.";

// { video, question, seconds, token, settings: {name: text} } of an address' part behind the #.
export function read(hash) {
  const given = new URLSearchParams(hash.replace(/^#/, ""));
  const settings = {};
  for (const [name, value] of given) if (name.startsWith(SETTING)) settings[name.slice(SETTING.length)] = value;
  const seconds = Number.parseFloat(given.get("t"));
  return {
    video: given.get("video"),
    question: given.get("question") ?? "",
    seconds: Number.isFinite(seconds) ? seconds : null,
    token: given.get("token"),
    settings,
  };
}

export function write({ video, question, seconds, settings = {} }) {
  const parts = new URLSearchParams();
  if (video) parts.set("video", video);
  if (question) parts.set("question", question);
  if (seconds > 0) parts.set("t", seconds.toFixed(1));
  for (const [name, value] of Object.entries(settings)) parts.set(SETTING + name, value);
  return `#${parts}`;
}

// Without the token, which nobody should find in a history or over a shoulder.
export function dropToken() {
  const parts = new URLSearchParams(location.hash.replace(/^#/, ""));
  if (!parts.has("token")) return;
  parts.delete("token");
  history.replaceState(null, "", parts.size ? `#${parts}` : location.pathname);
}
