// Markdown to elements: headings, lists, quotes, tables, code, emphasis, links. Never HTML.

import { copy, make } from "./dom.js";

const INLINE = /(`+)|\*\*([^*\n]+(?:\*[^*\n]+)*)\*\*|\*([^*\s][^*\n]*)\*|\[([^[\]\n]{0,500})\]\((https?:\/\/[^)\s]{1,2000})\)|(https?:\/\/[^\s<>()"']+)/;

export function inline(text) {
  const nodes = [];
  const closing = runs(text);
  const pattern = new RegExp(INLINE, "gi");
  let from = 0;
  for (let found = pattern.exec(text); found; found = pattern.exec(text)) {
    const code = found[1] && codeSpan(text, found, closing);
    if (found[1] && !code) continue;
    if (found.index > from) nodes.push(text.slice(from, found.index));
    nodes.push(code ? make("code", {}, code.trim() || code) : element(found));
    from = pattern.lastIndex += code ? code.length + found[1].length : 0;
  }
  if (from < text.length) nodes.push(text.slice(from));
  return nodes;
}

// Where runs of so many backticks begin, by their length. Looked up for each opening one: a search of the rest of the
// text for each would take its square.
function runs(text) {
  const found = new Map();
  for (const { 0: run, index } of text.matchAll(/`+/g)) {
    if (!found.has(run.length)) found.set(run.length, { places: [], next: 0 });
    found.get(run.length).places.push(index);
  }
  return found;
}

// What stands between an opening run and the next one of its length; nothing where there is none.
function codeSpan(text, { 1: opening, index }, closing) {
  const same = closing.get(opening.length);
  while (same.places[same.next] <= index) same.next += 1;
  const end = same.places[same.next];
  return end === undefined ? "" : text.slice(index + opening.length, end);
}

function element([, , strong, emphasis, label, target, url]) {
  if (strong !== undefined) return make("strong", {}, inline(strong));
  if (emphasis !== undefined) return make("em", {}, inline(emphasis));
  if (target !== undefined) return link(target, label);
  return link(url, url);
}

function link(target, label) {
  return make("a", { href: target, rel: "noopener noreferrer", target: "_blank" }, label || target);
}

const FENCE = /^\s*(```+|~~~+)\s*([\w+#.-]*)/;
const HEADING = /^(#{1,6})\s+(.*)$/;
const BULLET = /^(\s*)(?:[-*+]|(\d{1,9})[.)])\s+(.*)$/;
const QUOTE = /^\s*>\s?(.*)$/;
const RULE = /^\s*([-*_])\s*(?:\1\s*){2,}$/;
const ROW = /^\s*\|.*\|\s*$/;

const DEEPEST = 32;

export function render(text) {
  return blocks(text.split("\n"), 0);
}

function blocks(lines, depth) {
  if (depth > DEEPEST) return [make("p", {}, lines.join("\n"))];
  const found = [];
  let at = 0;
  const take = (test) => {
    const from = at;
    while (at < lines.length && test(lines[at])) at += 1;
    return lines.slice(from, at);
  };
  while (at < lines.length) {
    const line = lines[at];
    if (!line.trim()) at += 1;
    else if (FENCE.test(line)) found.push(fence());
    else if (HEADING.test(line)) found.push(heading(lines[at++]));
    else if (RULE.test(line)) found.push(rule());
    else if (QUOTE.test(line)) found.push(make("blockquote", {}, blocks(take((l) => QUOTE.test(l)).map((l) => QUOTE.exec(l)[1]), depth + 1)));
    else if (ROW.test(line) && /^[\s|:-]+$/.test(lines[at + 1] ?? "")) found.push(table(take((l) => ROW.test(l))));
    else if (BULLET.test(line)) found.push(list(take((l) => BULLET.test(l) || /^\s+\S/.test(l)), depth));
    else found.push(make("p", {}, inline(take(isText).join("\n"))));
  }
  return found;

  function rule() {
    at += 1;
    return make("hr");
  }

  function fence() {
    const [, mark, language] = FENCE.exec(lines[at++]);
    const code = take((l) => !l.trim().startsWith(mark));
    at += 1;
    return codeBlock(code.join("\n"), language);
  }
}

function isText(line) {
  return line.trim() && ![FENCE, HEADING, QUOTE, BULLET, RULE].some((pattern) => pattern.test(line));
}

function heading(line) {
  const [, marks, text] = HEADING.exec(line);
  return make(`h${Math.min(6, marks.length + 2)}`, {}, inline(text));
}

function codeBlock(code, language) {
  const button = make("button", { type: "button", className: "plain copy" }, "Copy");
  button.addEventListener("click", async () => {
    await copy(code);
    button.textContent = "Copied";
  });
  const head = make("div", { className: "code-head" }, language || "text", button);
  return make("div", { className: "code" }, head, make("pre", { tabIndex: 0 }, make("code", {}, code)));
}

function list(lines, depth) {
  const [, indent, number] = BULLET.exec(lines[0]);
  const items = [];
  for (const line of lines) {
    const found = BULLET.exec(line);
    if (found && found[1].length <= indent.length) items.push([found[3]]);
    else items.at(-1).push(line.slice(Math.min(line.search(/\S/), indent.length + 2)));
  }
  const made = make(number ? "ol" : "ul", {}, items.map((lines) => item(lines, depth + 1)));
  if (number && Number(number) !== 1) made.start = Number(number);
  return made;
}

function item([first, ...more], depth) {
  return make("li", {}, inline(first), blocks(more, depth));
}

function table(lines) {
  const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());
  const [head, , ...body] = lines;
  const row = (tag) => (line) => make("tr", {}, cells(line).map((cell) => make(tag, {}, inline(cell))));
  return make("div", { className: "table" }, make("table", {}, make("thead", {}, row("th")(head)), make("tbody", {}, body.map(row("td")))));
}
