// The settings of questions: one set, or two to compare. The server says which there are, and their ranges.

import { byId, h, replace } from "./dom.js";
import { count } from "./format.js";

const KEPT = "tempo.settings";
const LABELS = ["A", "B"];

export class Settings {
  // list: as GET /api/settings gives it.
  constructor(list, changed) {
    this.list = list;
    this.changed = changed;
    const kept = recall();
    this.sets = LABELS.map((_, place) => this.#known(kept.sets?.[place]));
    this.compare = kept.compare === true;
    this.history = kept.history === true;
    byId("reset-settings").addEventListener("click", () => this.#reset());
    this.#build();
  }

  // What a question is asked with: [{ label, settings }], with only what differs from the defaults.
  chosen() {
    const sets = this.compare ? this.sets : this.sets.slice(0, 1);
    return sets.map((values, place) => ({ label: this.compare ? LABELS[place] : "", settings: { ...values } }));
  }

  // Settings of a link, as text; what this server does not have is left out.
  adopt(texts) {
    if (!Object.keys(texts).length) return;
    const values = {};
    for (const setting of this.list) {
      if (setting.name in texts) values[setting.name] = fromText(setting, texts[setting.name]);
    }
    this.sets[0] = this.#known(values);
    this.compare = false;
    this.#build();
  }

  describe(values) {
    const parts = this.list
      .filter(({ name }) => name in values)
      .map((setting) => `${setting.label}: ${shown(setting, values[setting.name])}`);
    return parts.join(", ") || "the defaults";
  }

  // Only known names with values of the right kind, and none that is the default.
  #known(values) {
    const found = {};
    for (const setting of this.list) {
      const value = values?.[setting.name];
      if (valid(setting, value) && value !== setting.default) found[setting.name] = value;
    }
    return found;
  }

  #reset() {
    this.sets = LABELS.map(() => ({}));
    this.compare = false;
    this.history = false;
    this.#build();
  }

  #set(place, setting, value) {
    if (value === null || value === setting.default) delete this.sets[place][setting.name];
    else this.sets[place][setting.name] = value;
    this.#keep();
  }

  #keep() {
    try {
      localStorage.setItem(KEPT, JSON.stringify({ sets: this.sets, compare: this.compare, history: this.history }));
    } catch {
      // No storage: they last as long as the page.
    }
    this.#summarize();
    this.changed?.();
  }

  #summarize() {
    const changes = Object.keys(this.sets[0]).length;
    const text = this.compare ? "Comparing A and B" : changes ? `Settings (${count(changes)} changed)` : "Settings";
    byId("settings-summary").textContent = text;
  }

  #build() {
    const main = this.list.filter((setting) => setting.main);
    const more = this.list.filter((setting) => !setting.main);
    replace(
      byId("settings-body"),
      this.#switch("compare", "Compare two settings", "The question is asked with A and with B; both answers stand side by side."),
      this.compare && h("p", { class: "hint" }, "Change something under B, so that there is a difference to see."),
      main.map((setting) => this.#row(setting)),
      more.length > 0 && h("details", { class: "more" }, h("summary", {}, "More settings"), more.map((setting) => this.#row(setting))),
      this.#switch(
        "history",
        "Send earlier questions and answers along",
        "On: follow-up questions such as “and then?” make sense to the model. Off: every question stands on its own.",
      ),
    );
    this.#keep();
  }

  #switch(name, label, help) {
    const id = `switch-${name}`;
    const change = ({ target }) => {
      this[name] = target.checked;
      this.#build();
      byId(id).focus();
    };
    const input = h("input", { type: "checkbox", role: "switch", id, "aria-describedby": `${id}-help`, checked: this[name], on: { change } });
    return h(
      "div",
      { class: "setting switch" },
      h("label", { for: id }, input, h("span", {}, label)),
      h("p", { class: "hint", id: `${id}-help` }, help),
    );
  }

  #row(setting) {
    const help = `help-${setting.name}`;
    const places = this.compare ? [0, 1] : [0];
    const opens = setting.group === "video" ? " Changing it opens the video anew." : "";
    return h(
      "div",
      { class: "setting", role: "group", "aria-label": setting.label },
      h("div", { class: "setting-name", "aria-hidden": "true" }, setting.label),
      h("div", { class: "pair" }, places.map((place) => this.#control(setting, place, help))),
      h("p", { class: "hint", id: help }, `${setting.help ?? ""}${opens}`.trim()),
    );
  }

  #control(setting, place, help) {
    const label = this.compare ? `${setting.label}, ${LABELS[place]}` : setting.label;
    const common = { "aria-label": label, "aria-describedby": help, "data-setting": setting.name, "data-set": LABELS[place] };
    const value = this.sets[place][setting.name] ?? setting.default;
    const tag = this.compare && h("span", { class: "tag", "aria-hidden": "true" }, LABELS[place]);
    return h("div", { class: "control" }, tag, CONTROLS[setting.type](setting, value, common, (chosen) => this.#set(place, setting, chosen)));
  }
}

function number(setting, value, common, set) {
  const whole = setting.type === "integer";
  const maximum = Math.min(setting.maximum, Number.MAX_SAFE_INTEGER); // beyond it, numbers are not what was typed
  const { published } = setting;
  const field = h("input", {
    type: "number",
    ...common,
    min: setting.minimum,
    max: maximum,
    step: whole ? 1 : "any",
    inputmode: whole ? "numeric" : "decimal",
    placeholder: setting.default === null ? "automatic" : "",
    value: value ?? "",
  });
  const slider =
    published &&
    h("input", {
      type: "range",
      ...common,
      "aria-label": `${common["aria-label"]}, slider`,
      min: published.minimum,
      max: published.maximum,
      step: published.step,
      value: value ?? published.maximum,
      on: {
        input({ target }) {
          field.value = target.value;
          set(Number(target.value));
        },
      },
    });
  field.addEventListener("change", () => {
    const typed = Number(field.value);
    if (field.value === "" || !Number.isFinite(typed)) {
      field.value = setting.default ?? "";
      set(null);
    } else {
      const bounded = Math.min(Math.max(whole ? Math.round(typed) : typed, setting.minimum), maximum);
      field.value = bounded;
      set(bounded);
    }
    if (slider) slider.value = field.value || published.maximum;
  });
  return [slider, field];
}

function choice(setting, value, common, set) {
  const options = setting.choices.map((name) => h("option", { value: name, selected: name === value }, name));
  return h("select", { ...common, on: { change: ({ target }) => set(target.value) } }, options);
}

function toggle(setting, value, common, set) {
  const change = ({ target }) => set(target.checked);
  return h("input", { type: "checkbox", role: "switch", ...common, checked: value, on: { change } });
}

const CONTROLS = { integer: number, number, string: choice, boolean: toggle };

function valid(setting, value) {
  if (setting.type === "boolean") return typeof value === "boolean";
  if (setting.type === "string") return setting.choices.includes(value);
  return Number.isFinite(value) && value >= setting.minimum && value <= setting.maximum;
}

function fromText(setting, text) {
  if (setting.type === "boolean") return text === "true";
  return setting.type === "string" ? text : Number(text);
}

function shown(setting, value) {
  if (typeof value === "boolean") return value ? "on" : "off";
  return typeof value === "number" ? count(value) : value;
}

function recall() {
  try {
    return JSON.parse(localStorage.getItem(KEPT)) ?? {};
  } catch {
    return {};
  }
}
