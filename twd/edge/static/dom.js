// Builds elements. Text goes in as text: nothing that a model or a user wrote is ever parsed as HTML.

export function make(tag, options = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (name === "on") {
      for (const [event, handler] of Object.entries(value)) element.addEventListener(event, handler);
    } else if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  return appendAll(element, children.flat());
}

// One by one: a list may be longer than a call has room for.
export function appendAll(element, children) {
  for (const child of children) element.append(child);
  return element;
}

export function byId(id) {
  return document.getElementById(id);
}

export function round(value, digits = 1) {
  return value === null || value === undefined || Number.isNaN(value) ? "–" : Number(value).toFixed(digits);
}

export function percent(value) {
  return value === null || value === undefined || Number.isNaN(value) ? "–" : `${Math.round(100 * value)} %`;
}

// Over plain http from another machine a browser has no navigator.clipboard; the old command works there.
export async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = make("textarea", { value: text });
  (document.querySelector("dialog[open]") ?? document.body).append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}
