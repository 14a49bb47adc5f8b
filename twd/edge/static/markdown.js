// Markdown to elements: headings, lists, quotes, tables, code, emphasis, links. Never HTML.

import { copy, make } from "./dom.js";

const INLINE = /(`+)([\s\S]*?[^`])\1(?!`)|\*\*([^*\n]+(?:\*[^*\n]+)*)\*\*|\*([^*\s][^*\n]*)\*|\[([^\]\n]*)\]\(([^)\s]+)\)|(https?:\/\/[^\s<>()"']+)/;

export function inline(text) {
  const nodes = [];
  let rest = text;
  for (let found = INLINE.exec(rest); found; found = INLINE.exec(rest)) {
    if (found.index) nodes.push(rest.slice(0, found.index));
    nodes.push(element(found));
    rest = rest.slice(found.index + found[0].length);
  }
  if (rest) nodes.push(rest);
  return nodes;
}

function element([whole, , code, strong, emphasis, label, target, url]) {
  if (code !== undefined) return make("code", {}, code.trim() || code);
  if (strong !== undefined) return make("strong", {}, ...inline(strong));
  if (emphasis !== undefined) return make("em", {}, ...inline(emphasis));
  if (target !== undefined) return link(target, label) ?? whole;
  return link(url, url);
}

function link(target, label) {
  if (!/^https?:\/\//i.test(target)) return null;
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
    else if (QUOTE.test(line)) found.push(make("blockquote", {}, ...blocks(take((l) => QUOTE.test(l)).map((l) => QUOTE.exec(l)[1]), depth + 1)));
    else if (ROW.test(line) && /^[\s|:-]+$/.test(lines[at + 1] ?? "")) found.push(table(take((l) => ROW.test(l))));
    else if (BULLET.test(line)) found.push(list(take((l) => BULLET.test(l) || /^\s+\S/.test(l)), depth));
    else found.push(make("p", {}, ...inline(take(isText).join("\n"))));
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
  return make(`h${Math.min(6, marks.length + 2)}`, {}, ...inline(text));
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
  const made = make(number ? "ol" : "ul", {}, ...items.map((lines) => item(lines, depth + 1)));
  if (number && Number(number) !== 1) made.start = Number(number);
  return made;
}

function item([first, ...more], depth) {
  return make("li", {}, ...inline(first), ...blocks(more, depth));
}

function table(lines) {
  const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());
  const [head, , ...body] = lines;
  const row = (tag) => (line) => make("tr", {}, ...cells(line).map((cell) => make(tag, {}, ...inline(cell))));
  return make("div", { className: "table" }, make("table", {}, make("thead", {}, row("th")(head)), make("tbody", {}, ...body.map(row("td")))));
}
