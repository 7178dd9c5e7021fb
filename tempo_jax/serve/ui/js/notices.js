// Short messages that go by themselves, and text for the clipboard.

import { announce, byId, h } from "./dom.js";

const SHOWN_MS = 4000;
let timer = 0;

export function toast(text) {
  const element = byId("toast");
  element.textContent = text;
  element.hidden = false;
  announce(text);
  clearTimeout(timer);
  timer = setTimeout(() => (element.hidden = true), SHOWN_MS);
}

export async function copy(text, said) {
  toast((await copied(text)) ? said : "The browser does not let the page copy: select the text instead.");
}

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text); // which browsers offer on https and on localhost only
    return true;
  } catch {
    const focused = document.activeElement;
    const area = h("textarea", { class: "spoken", "aria-hidden": "true", tabindex: "-1" });
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    focused?.focus();
    return done;
  }
}
