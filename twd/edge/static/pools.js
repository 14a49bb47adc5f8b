// Models on several machines: their stages in order, what each computes, and what goes over the links.

import { make, percent, round } from "./dom.js";
import { tone } from "./figures.js";

const HEADINGS = ["Machine", "Layers", "State", "ms", "Planned ms", "Queue ms", "Busy", "Waste", "Dropped", "Link", "RTT ms", "Bytes a token"];

function figure(value, digits = 1) {
  return value ? round(value, digits) : "–";
}

function cells(stage) {
  const { node, first, end, head, state, passes } = stage;
  const held = end > first ? `${first}–${end - 1}` : "none";
  return [
    node, head ? `${held} + head` : held, state, figure(stage.ms), figure(stage.predicted_ms), figure(stage.queue_ms),
    passes ? percent(stage.busy) : "–", figure(stage.waste, 2), passes ? stage.dropped + stage.aborted : "–",
    stage.to || "–", figure(stage.rtt_ms), figure(stage.bytes_per_token, 0),
  ];
}

function stageRow(stage) {
  const row = cells(stage).map((content) => make("td", {}, String(content)));
  row[2].className = tone(stage.state);
  const share = make("meter", { min: 0, max: 1, high: 0.9, value: stage.busy, title: `busy ${percent(stage.busy)}` });
  if (stage.passes) row[6].append(" ", share);
  return make("tr", {}, ...row);
}

export function headline(pool) {
  const parts = [`${pool.engine || "pool"} of ${pool.stages.length}, home ${pool.home || "?"}, ${pool.state}`];
  parts.push(`${round(pool.tok_s)} tokens/s now`, `${pool.sessions} sessions`);
  if (pool.waiting) parts.push(`${pool.waiting} waiting`);
  if (pool.waste) parts.push(`waste ${round(pool.waste, 2)}`);
  if (pool.predicted_ms) parts.push(`predicted ${round(pool.predicted_ms)} ms a token, measured ${figure(pool.token_ms)}`);
  return parts.join(" · ");
}

export function poolBlock(pool) {
  return make("div", { className: "pool" },
    make("h3", {}, pool.model), make("p", { className: "quiet" }, headline(pool)),
    ...pool.warnings.map((text) => make("p", { className: "warning" }, text)),
    make("table", {},
      make("thead", {}, make("tr", {}, ...HEADINGS.map((name) => make("th", {}, name)))),
      make("tbody", {}, ...pool.stages.map(stageRow))));
}
