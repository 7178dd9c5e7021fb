// Elements made in code. Text is always set as text: nothing here, or anywhere else, parses HTML.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") {
      for (const [kind, listener] of Object.entries(value)) element.addEventListener(kind, listener);
    } else if (name in PROPERTIES) {
      element[name] = value;
    } else {
      element.setAttribute(name, value === true ? "" : value);
    }
  }
  append(element, children);
  return element;
}

// What must be set as a property to have its effect.
const PROPERTIES = { value: 1, checked: 1, disabled: 1, hidden: 1, open: 1, muted: 1 };

function append(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
}

// h("button", { class: "primary", on: { click } }, "Ask")
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

// An icon of index.html's <symbol>s; decoration, so hidden from assistive technology.
export function icon(name) {
  return svg("svg", { class: "icon", "aria-hidden": "true", focusable: "false" }, svg("use", { href: `#icon-${name}` }));
}

export function replace(element, ...children) {
  element.replaceChildren();
  append(element, children);
}

// A button with an icon; `label` is its name, shown or (with iconOnly) only spoken and as a tooltip.
export function button(label, { iconName, iconOnly, ...attributes } = {}) {
  const shown = iconOnly ? [] : [h("span", {}, label)];
  const named = iconOnly ? { "aria-label": label, title: label } : {};
  return h("button", { type: "button", ...named, ...attributes }, iconName && icon(iconName), shown);
}

export function byId(id) {
  return document.getElementById(id);
}

// Says `text` once to screen readers, without moving anything.
export function announce(text) {
  const region = byId("announcer");
  region.textContent = "";
  requestAnimationFrame(() => (region.textContent = text));
}
