// The chat page: one conversation on screen, its turns, and the answer that is on its way.

import { enter, events, getJson, leave, postJson } from "./api.js";
import { appendAll, byId, copy, make, percent, round } from "./dom.js";
import { render } from "./markdown.js";
import { conversations, forget, forgetAll, newConversation, save, saveSettings, settings } from "./store.js";

const talk = byId("talk");
const words = byId("words");
let current = conversations[0] ?? newConversation();
let running = null;

// -- what is on screen ---------------------------------------------------------------------------

function showAll() {
  showList();
  talk.replaceChildren(...current.turns.map(turnElement));
  if (!current.turns.length) talk.append(make("p", { className: "empty" }, "Ask something. Answers come from your own machines."));
  talk.scrollTop = talk.scrollHeight;
}

function showList() {
  const named = conversations.filter((one) => one.turns.length || one === current);
  byId("list").replaceChildren(...named.map((one) => {
    const name = make("button", { type: "button", className: "plain name", on: { click: () => open(one) } }, one.title || "New conversation");
    const cross = make("button", { type: "button", className: "plain", ariaLabel: `Forget ${one.title || "conversation"}`, on: { click: () => dropConversation(one) } }, "×");
    return make("li", one === current ? { "aria-current": "true" } : {}, name, cross);
  }));
}

function turnElement(turn, index) {
  const said = make("div", { className: "words" });
  fill(said, turn);
  const tools = make("div", { className: "tools" }, ...turnTools(turn, index));
  return make("article", { className: `turn ${turn.role}`, ariaLabel: turn.role === "user" ? "You" : "Model" }, said, tools);
}

function fill(element, turn) {
  const marked = settings.marks && turn.marks?.length;
  element.classList.toggle("raw", Boolean(marked));
  if (turn.role === "user") element.replaceChildren(turn.text);
  else if (marked) (element.replaceChildren(), appendAll(element, turn.marks.map(markElement)));
  else (element.replaceChildren(), appendAll(element, render(turn.text)));
  if (turn.thought) element.prepend(thoughtElement(turn));
  if (turn.error) element.append(make("p", { className: "error", role: "alert" }, turn.error));
}

// Open while the model thinks, closed when it answers, unless the reader wants it otherwise.
function thoughtElement(turn) {
  const shown = make("details", { className: "thought", open: turn.open ?? !turn.text });
  const choose = () => { turn.open = !shown.open; };
  shown.append(make("summary", { on: { click: choose } }, turn.text ? "Thoughts" : "Thinking …"), make("p", {}, turn.thought));
  return shown;
}

function markElement([text, tokens, taken, drafter]) {
  const weight = taken === 0 ? "" : taken / Math.max(1, tokens) > 0.5 ? "most" : "some";
  const title = taken ? `${taken} of ${tokens} tokens guessed${drafter ? ` by ${drafter}` : ""}` : "";
  return make("span", { className: `mark ${weight}`, title }, text);
}

function turnTools(turn, index) {
  const button = (label, action) => make("button", { type: "button", className: "plain", disabled: Boolean(running), on: { click: action } }, label);
  if (turn.role === "user") return [button("Edit", () => edit(index))];
  return [button("Retry", () => answer(index)), button("Copy", () => copy(turn.text)), figures(turn.facts)];
}

function figures(facts) {
  if (!facts) return make("span");
  const parts = [`${round(facts.tokens_per_second)} tokens/s`, `${round(facts.tokens_per_pass, 2)} tokens a pass`];
  if (facts.acceptance !== null) parts.push(`${percent(facts.acceptance)} of guesses right`);
  parts.push(`seed ${facts.seed}`);
  return make("span", { className: "figures", title: `job ${facts.job}` }, parts.join(" · "));
}

function showSide(yes) {
  byId("side").classList.toggle("open", yes);
  byId("show-list").setAttribute("aria-expanded", String(yes));
}

// -- what people do ------------------------------------------------------------------------------

function open(conversation) {
  running?.abort();
  rest();
  current = conversation;
  showSide(false);
  showAll();
  words.focus();
}

function dropConversation(conversation) {
  forget(conversation);
  open(conversation === current ? conversations[0] ?? newConversation() : current);
}

function edit(index) {
  words.value = current.turns[index].text;
  current.turns.splice(index);
  save(current);
  showAll();
  grow();
  words.focus();
}

function ask() {
  const text = words.value.trim();
  if (!text || running) return;
  words.value = "";
  grow();
  current.title ||= text.slice(0, 60);
  current.turns.push({ role: "user", text });
  answer(current.turns.length);
}

function grow() {
  words.style.height = "";
  words.style.height = `${words.scrollHeight + words.offsetHeight - words.clientHeight}px`;
}

// -- the answer ----------------------------------------------------------------------------------

function request(turns) {
  const messages = turns.filter((turn) => turn.text).map(({ role, text }) => ({ role, content: text }));
  if (settings.system) messages.unshift({ role: "system", content: settings.system });
  const speculation = /^\d+$/.test(settings.speculation) ? Number(settings.speculation) : settings.speculation;
  const body = { model: byId("model").value || "default", messages, stream: true, twd: { speculation, marks: true } };
  for (const name of ["temperature", "max_tokens", "seed"]) {
    if (settings[name] !== "" && Number.isFinite(Number(settings[name]))) body[name] = Number(settings[name]);
  }
  return body;
}

async function answer(index) {
  const conversation = current;
  conversation.turns.splice(index);
  const body = request(conversation.turns);
  const turn = { role: "assistant", text: "", marks: [] };
  conversation.turns.push(turn);
  const mine = running = new AbortController();
  busy(true);
  showAll();
  try {
    const response = await postJson("/v1/chat/completions", body, mine.signal);
    for await (const chunk of events(response)) take(conversation, turn, chunk);
  } catch (error) {
    if (error.name !== "AbortError") turn.error = [error.message, error.advice].filter(Boolean).join(" ");
  }
  if (running === mine) rest();
  if (conversations.includes(conversation)) save(conversation);
  if (conversation === current) showAll();
}

function rest() {
  running = null;
  busy(false);
}

function take(conversation, turn, chunk) {
  const { content: text = "", reasoning_content: thought = "" } = chunk.choices[0]?.delta ?? {};
  turn.facts = chunk.twd ?? turn.facts;
  if (thought) turn.thought = (turn.thought ?? "") + thought;
  if (thought && conversation === current) drawSoon(turn);
  if (!text) return;
  turn.text += text;
  const mark = chunk.twd_mark;
  turn.marks.push([text, mark?.tokens ?? 1, mark?.taken ?? 0, mark?.drafter ?? ""]);
  if (conversation === current) drawSoon(turn);
}

let drawing = false;

// Once a frame is enough, however fast the tokens come.
function drawSoon(turn) {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    const element = talk.lastElementChild?.querySelector(".words");
    if (!element || current.turns.at(-1) !== turn) return;
    const atEnd = talk.scrollHeight - talk.scrollTop - talk.clientHeight < 80;
    fill(element, turn);
    if (atEnd) talk.scrollTop = talk.scrollHeight;
  });
}

function busy(yes) {
  byId("send").classList.toggle("hidden", yes);
  byId("stop").classList.toggle("hidden", !yes);
  talk.setAttribute("aria-busy", String(yes));
}

// -- settings ------------------------------------------------------------------------------------

function bindSettings() {
  const form = byId("settings").querySelector("form");
  for (const field of form.elements) {
    if (!field.name) continue;
    const kind = field.type === "checkbox" ? "checked" : "value";
    field[kind] = settings[field.name];
    field.addEventListener("input", () => {
      settings[field.name] = field[kind];
      saveSettings();
    });
  }
  byId("settings").addEventListener("close", showAll);
}

async function showModels() {
  const { data: named } = await getJson("/v1/models");
  const data = named.filter((card) => !card.twd.alias_of);
  const model = byId("model");
  model.replaceChildren(...data.map((card) => make("option", { value: card.id }, card.twd.ready ? card.id : `${card.id} (not ready)`)));
  const preferred = data.find((card) => card.id === settings.model) ?? data.find((card) => card.twd.default);
  if (preferred) model.value = preferred.id;
}

byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
words.addEventListener("input", grow);
words.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    ask();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !document.querySelector("dialog[open]")) running?.abort();
});
byId("stop").addEventListener("click", () => running?.abort());
byId("new").addEventListener("click", () => open(newConversation()));
byId("show-settings").addEventListener("click", () => byId("settings").showModal());
byId("show-list").addEventListener("click", () => showSide(!byId("side").classList.contains("open")));
byId("forget").addEventListener("click", () => {
  forgetAll();
  open(newConversation());
});
byId("model").addEventListener("change", (event) => {
  settings.model = event.currentTarget.value;
  saveSettings();
});
byId("logout").addEventListener("click", leave);

bindSettings();
showAll();
const visitor = await enter();
byId("logout").classList.toggle("hidden", !visitor.name);
await showModels();
