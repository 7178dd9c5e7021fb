// The server's HTTP API, as /openapi.json describes it. Nothing here touches the document.

import { events } from "./events.js";

const UNREACHABLE = "The server does not answer. Check that it is still running and that you are online.";

export class ApiError extends Error {
  constructor(status, { message, code = null }, retryAfter = 0) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter; // seconds; 0 where the server does not say
  }
}

// Called for every 401, so that the page can ask for the token wherever it is missing.
let unauthorized = () => {};

export function onUnauthorized(listener) {
  unauthorized = listener;
}

async function send(path, { method = "GET", json, signal } = {}) {
  const options = { method, signal };
  if (json !== undefined) {
    options.headers = { "Content-Type": "application/json" };
    options.body = JSON.stringify(json);
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, { message: UNREACHABLE });
  }
  if (!response.ok) throw failed(response.status, await response.text(), response.headers.get("Retry-After"));
  return response;
}

function failed(status, text, retryAfter) {
  let error;
  try {
    error = JSON.parse(text).error;
  } catch {
    // A proxy's page, say.
  }
  const fallback = { message: `The server answered with status ${status}. Try again.` };
  if (status === 401) unauthorized();
  return new ApiError(status, error?.message ? error : fallback, Number(retryAfter) || 0);
}

async function data(path, options) {
  const response = await send(path, options);
  return response.status === 204 ? null : response.json();
}

export const session = () => data("/api/session");
export const signIn = (token) => data("/api/session", { method: "POST", json: { token } });
export const signOut = () => data("/api/session", { method: "DELETE" });
export const info = () => data("/api/info");
export const settings = async () => (await data("/api/settings")).settings;
export const video = (id) => data(`/api/videos/${encodeURIComponent(id)}`);
export const removeVideo = (id) => data(`/api/videos/${encodeURIComponent(id)}`, { method: "DELETE" });
export const stop = (id) => data(`/api/questions/${encodeURIComponent(id)}`, { method: "DELETE" });

export function videos({ query = "", offset = 0, limit = 48 } = {}) {
  return data(`/api/videos?${new URLSearchParams({ query, offset, limit })}`);
}

// The address of a picture of a lane's segment; null where no clip is known.
export function segmentThumbnail({ clip }, { index }) {
  return clip ? `/api/clips/${encodeURIComponent(clip)}/thumbnails/${index}` : null;
}

// The events of an answer: [name, data] as section "Questions" of the API names them.
export async function* ask(body, signal) {
  const response = await send("/api/questions", { method: "POST", json: body, signal });
  try {
    yield* events(response.body);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, { message: UNREACHABLE });
  }
}

// Uploads a file. Returns { done, cancel }: a promise of the uploaded Video, and a function.
export function upload(file, onProgress) {
  const request = new XMLHttpRequest(); // fetch tells nothing of what has been sent
  const done = new Promise((resolve, reject) => {
    request.upload.addEventListener("progress", ({ loaded, total }) => onProgress(loaded, total));
    request.addEventListener("load", () => {
      if (request.status < 300) resolve(JSON.parse(request.responseText).id);
      else reject(failed(request.status, request.responseText, request.getResponseHeader("Retry-After")));
    });
    request.addEventListener("error", () => reject(new ApiError(0, { message: UNREACHABLE })));
    request.addEventListener("abort", () => reject(new DOMException("The upload was canceled.", "AbortError")));
  });
  const form = new FormData();
  form.append("purpose", "vision");
  form.append("file", file, file.name);
  request.open("POST", "/v1/files");
  request.send(form);
  return { done: done.then(video), cancel: () => request.abort() };
}
