// Starts the page: session, what the server offers, and which view the address asks for.

import * as api from "./api.js";
import { Conversation } from "./conversation.js";
import { button, byId, h, replace } from "./dom.js";
import * as kept from "./history.js";
import { Library } from "./library.js";
import * as link from "./link.js";
import { Player } from "./player.js";
import { Settings } from "./settings.js";

const VIEWS = ["loading", "broken", "sign-in", "library", "work"];
const page = {}; // library, player, conversation, settings, once the server has told what it offers

function show(view) {
  for (const name of VIEWS) byId(name).hidden = name !== view;
  document.body.classList.toggle("signed-out", view === "sign-in");
  document.body.dataset.view = view;
  const working = view === "work";
  byId("all-videos").hidden = !working;
  byId("subject").hidden = !working;
  if (!working) document.title = "Tempo";
}

function broken(error) {
  show("broken");
  const again = button("Try again", { class: "primary", on: { click: () => start() } });
  const home = h("a", { href: "#" }, "All videos");
  replace(byId("broken"), h("p", {}, error.message), again, page.library && home);
}

async function start() {
  show("loading");
  try {
    const { token } = link.read(location.hash);
    link.dropToken();
    let session = await api.session();
    if (token && session.token_required) session = await signedInWith(token, session);
    if (!session.signed_in) return askForToken();
    byId("sign-out").hidden = !session.token_required;
    if (!page.library) await build();
    await route();
  } catch (error) {
    if (error.status === 401) askForToken();
    else broken(error);
  }
}

async function build() {
  const [info, settings] = await Promise.all([api.info(), api.settings()]);
  byId("model").textContent = info.model.id;
  page.settings = new Settings(settings);
  page.player = new Player(api.segmentThumbnail);
  byId("media").append(page.player.element);
  page.conversation = new Conversation(page.player, page.settings, info);
  page.library = new Library(info, {
    open: (video) => (location.hash = link.write({ video: video.id })),
    removed: (video) => kept.forget(info.model.id, video.id),
  });
  byId("open-settings").addEventListener("click", () => byId("settings").showModal());
}

// The view that the address asks for.
async function route() {
  const asked = link.read(location.hash);
  byId("settings").close();
  if (!asked.video) {
    page.conversation.close();
    page.player.close();
    const arrived = document.body.dataset.view === "work";
    show("library");
    if (arrived) byId("main").focus({ preventScroll: true }); // what had the focus is gone
    return page.library.show();
  }
  const video = await api.video(asked.video);
  if (link.read(location.hash).video !== asked.video) return; // left meanwhile
  show("work");
  byId("subject").textContent = video.name;
  document.title = `${video.name} · Tempo`;
  page.settings.adopt(asked.settings);
  history.replaceState(null, "", link.write({ video: video.id })); // the rest has been taken up
  page.player.load(video);
  page.conversation.open(video, asked.question);
  page.conversation.focus();
  if (asked.seconds !== null) page.player.show(asked.seconds);
}

// Signing in and out.

function askForToken() {
  show("sign-in");
  byId("sign-out").hidden = true;
  byId("token").focus();
}

async function signedInWith(token, session) {
  try {
    return await api.signIn(token);
  } catch (error) {
    if (error.status !== 401) throw error;
    byId("sign-in-error").textContent = error.message;
    return session;
  }
}

byId("sign-in").querySelector("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const field = byId("token");
  const problem = byId("sign-in-error");
  problem.textContent = "";
  try {
    await api.signIn(field.value.trim());
    field.value = "";
  } catch (error) {
    problem.textContent = error.message;
    field.select();
    return;
  }
  await start();
});

byId("sign-out").addEventListener("click", async () => {
  page.conversation?.close();
  await api.signOut().catch(() => {});
  kept.forgetAll(); // the next person at this browser is somebody else
  history.replaceState(null, "", location.pathname);
  await start();
});

api.onUnauthorized(() => {
  if (byId("sign-in").hidden && byId("loading").hidden) askForToken();
});

byId("all-videos").addEventListener("click", () => (location.hash = ""));
addEventListener("hashchange", () => {
  if (link.read(location.hash).token) return start();
  if (page.library && byId("sign-in").hidden) route().catch((error) => error.status !== 401 && broken(error));
});

start();
