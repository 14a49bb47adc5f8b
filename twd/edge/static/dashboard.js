// The dashboard: status and history now and then, ends of jobs as they happen.

import { enter, getJson, leave } from "./api.js";
import { byId, make, percent, round } from "./dom.js";
import { acceptance, asked, byDrafter, byPosition, drafterNames, failed, firstToken, gain, overall, perPass, savings, speed, tone } from "./figures.js";
import { poolBlock } from "./pools.js";

const STATUS_MS = 3000;
const MOST = 200;
let jobs = [];
let unremembered = "";
const names = new Map();

// -- drawing -------------------------------------------------------------------------------------

function cell(content, kind = "") {
  return make("td", { className: kind }, content ?? "–");
}

function row(...cells) {
  return make("tr", {}, ...cells);
}

function modelState({ ready, note }) {
  return ready ? "ready" : note?.startsWith("is loading") ? "loading" : "failed";
}

function drawStatus(status) {
  const { edge } = status;
  for (const [instance, name] of drafterNames(status.services)) names.set(instance, name);
  const warnings = [...status.warnings, unremembered].filter(Boolean);
  byId("warnings").replaceChildren(...warnings.map((text) => make("p", {}, text)));
  byId("warnings").classList.toggle("hidden", !warnings.length);
  byId("models").replaceChildren(...status.models.map(({ id, twd }) => row(
    cell(twd.default ? `${id} (default)` : id),
    cell(twd.ready ? (twd.exact === false ? "ready, near" : "ready") : twd.note ?? "not ready", tone(modelState(twd))),
    cell(twd.replicas), cell(twd.ctx_size), cell(twd.quantization),
  )));
  byId("services").replaceChildren(...status.services.map((one) => row(
    cell(one.node), cell(one.service), cell(one.note ? `${one.health}: ${one.note}` : one.health, tone(one.health)),
    cell(one.pid), cell(one.version), cell(`${round(one.age_s, 0)} s ago`),
  )));
  byId("pools-section").classList.toggle("hidden", !status.pools.length);
  byId("pools").replaceChildren(...status.pools.map(poolBlock));
  byId("transfers-section").classList.toggle("hidden", !status.transfers.length);
  byId("transfers").replaceChildren(...status.transfers.map((one) => row(
    cell(one.node), cell(one.file), cell(one.layers || "all"),
    cell(one.problem || percent(one.done_bytes / Math.max(1, one.total_bytes)), one.problem ? "bad" : ""),
    cell(round(one.bytes_s / 2 ** 20)), cell(one.sources), cell(one.eta_s === null ? null : `${round(one.eta_s, 0)} s`),
  )));
  drawGate(status);
  drawFigures(edge);
}

function times(value) {
  return value === null ? "–" : `${value.toFixed(2)}x`;
}

function audited({ target, member, errors, audits, low, high }) {
  const [from, to] = [low, high].map((share) => `${(100 * share).toFixed(1)} %`);
  return `${target} ${member}: ${errors} of ${audits} wrong, ${from} to ${to}`;
}

function drawGate({ services, stats, wins, consensus_mode, consensus_accepted, consensus_fallback }) {
  const gate = services.find((one) => one.service === "gate")?.facts;
  const voted = consensus_mode !== "off";
  byId("gate-section").classList.toggle("hidden", !gate && !voted);
  const rows = gate ? {
    "Approved, corrected, rejected": `${stats.approved}, ${stats.corrected}, ${stats.rejected} of ${stats.total_requests}`,
    "Approved by member": Object.entries(wins).map(([name, count]) => `${name} ${count}`).join(", ") || "none",
    "Resting": gate.resting?.join(", ") || "nobody",
    "Audited": gate.audited?.map(audited).join("; ") || "nothing: texts are exact",
    "Target's time": `${round(gate.target_s, 1)} s, audits ${round(gate.audit_s, 1)} s, fleet ${round(gate.fleet_s, 1)} s`,
    "Saved beside exact speculation": `${round(gate.saved_s, 1)} s of the target`,
    "Tokens written by members": `${gate.kept_tokens}`,
  } : {};
  if (voted) rows["Agreed by drafters"] = `${consensus_accepted} tokens, the target decided ${consensus_fallback}`;
  byId("gate").replaceChildren(...Object.entries(rows).map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
}

function drawFigures(edge) {
  const all = overall(jobs);
  const figures = {
    "Jobs now": `${edge.jobs} of ${edge.max_queue}`,
    "Tokens/s, median": round(all.speed),
    "With drafts, to plain": times(gain(jobs)),
    "Tokens a pass": round(all.perPass, 2),
    "Guesses right": percent(all.acceptance),
    "First token, median": `${round(all.firstToken, 0)} ms`,
    "First token, 95 %": `${round(all.firstToken95, 0)} ms`,
    "Failed": `${all.failed} of ${all.jobs}`,
  };
  byId("figures").replaceChildren(...Object.entries(figures).map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
}

function drawJobs() {
  byId("jobs").replaceChildren(...jobs.slice(0, 50).map(jobRow));
  byId("drafters").replaceChildren(...byDrafter(jobs, names).map((one) => row(cell(one.drafter), cell(one.checked), cell(one.taken), cell(percent(one.taken / one.checked)))));
  byId("depth").replaceChildren(...byPosition(jobs).map(depthItem));
  drawSpeed(jobs.map(speed).filter(Number.isFinite).slice(0, 60).reverse());
  drawSavings();
}

function jobRow(job) {
  const failure = job.failure ?? null;
  const trace = make("button", { type: "button", className: "plain", on: { click: () => showTrace(job.job) } }, "Trace");
  return row(
    cell(job.at_ms ? new Date(job.at_ms).toLocaleTimeString() : null), cell(job.job),
    cell(failure ? failureWords(failure) : job.reason, failed(job) ? "bad" : failure ? "quiet" : "ok"),
    cell(job.stats?.completion_tokens ?? 0), cell(round(speed(job))), cell(round(perPass(job), 2)),
    cell(percent(acceptance(job))), cell(`${round(firstToken(job), 0)} ms`), make("td", {}, trace),
  );
}

function failureWords({ code, message }) {
  const words = message && message !== code ? `${code}: ${message}` : code;
  return words.length > 240 ? `${words.slice(0, 240)} …` : words;
}

function depthItem(one, position) {
  const share = one.taken / one.checked;
  const bar = make("meter", { min: 0, max: 1, value: share, title: `${one.taken} of ${one.checked}` });
  return make("li", {}, String(position + 1), bar, percent(share));
}

function drawSpeed(values) {
  const svg = byId("speed");
  const shape = (tag, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  };
  const top = Math.max(1, ...values) * 1.1;
  const point = (value, at) => `${round((600 * at) / Math.max(1, values.length - 1))},${round(120 - (118 * value) / top)}`;
  svg.replaceChildren(shape("line", { x1: 0, x2: 600, y1: 119, y2: 119 }), shape("polyline", { points: values.map(point).join(" ") }));
  svg.setAttribute("aria-label", values.length ? `Tokens per second: last ${round(values.at(-1))}, most ${round(Math.max(...values))}` : "No jobs yet");
}

function drawSavings() {
  const { tokens, price, pace, result } = byId("savings").elements;
  const measured = overall(jobs).perPass;
  const given = Number(pace.value) || measured || 1;
  const { whole, saved } = savings(Number(tokens.value), Number(price.value), given);
  result.textContent = `${saved.toFixed(2)} of ${whole.toFixed(2)} a month at ${given.toFixed(2)} tokens per pass`;
}

async function showTrace(job) {
  const story = byId("story");
  story.replaceChildren();
  byId("trace-title").textContent = `Trace of ${job}`;
  byId("trace").showModal();
  try {
    const { events } = await getJson(`/v1/twd/jobs/${encodeURIComponent(job)}`);
    const first = events[0]?.at_ms ?? 0;
    story.replaceChildren(...events.map((event) => traceItem(event, first)));
  } catch (error) {
    story.replaceChildren(make("li", { className: "error" }, error.message));
  }
}

function traceItem({ type, at_ms, id, cause, job, ...rest }, first) {
  const name = `+${(at_ms ?? first) - first} ms  ${type.replace("twd.v1.", "")}  from ${rest.source ?? "?"}`;
  delete rest.source;
  return make("li", {}, name, make("pre", {}, JSON.stringify(rest)));
}

// -- news ----------------------------------------------------------------------------------------

async function refresh() {
  try {
    drawStatus(await getJson("/v1/twd/status"));
  } catch (error) {
    byId("live").textContent = error.message;
  }
}

async function loadHistory() {
  try {
    jobs = (await getJson(`/v1/twd/history?limit=${MOST}`)).jobs;
  } catch (error) {
    unremembered = error.message;
  }
  drawJobs();
}

function listen() {
  const source = new EventSource("/v1/twd/events?topics=job");
  source.onopen = () => { byId("live").textContent = "live"; };
  source.onerror = () => { byId("live").textContent = "reconnecting"; };
  for (const type of ["twd.v1.job.finished", "twd.v1.job.failed"]) {
    source.addEventListener(type, (event) => {
      const job = JSON.parse(event.data);
      if (!asked(job)) return;
      jobs.unshift(job);
      jobs.splice(MOST);
      drawJobs();
    });
  }
}

byId("savings").addEventListener("input", drawSavings);
byId("savings").addEventListener("submit", (event) => event.preventDefault());
byId("logout").addEventListener("click", leave);
const visitor = await enter();
byId("logout").classList.toggle("hidden", !visitor.name);
await loadHistory();
await refresh();
listen();
setInterval(refresh, STATUS_MS);
