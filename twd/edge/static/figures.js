// Figures from ended jobs: plain functions of plain values.

export function quantile(values, share) {
  const sorted = values.filter(Number.isFinite).sort((one, other) => one - other);
  if (!sorted.length) return null;
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];
}

/** A job of somebody, not one by which a speculator measures its drafters: the history leaves those out, too. */
export function asked({ job }) {
  return !job.startsWith("calibration-");
}

export function speed(job) {
  const stats = job.stats ?? {};
  return stats.decode_ms ? (1000 * (stats.completion_tokens ?? 0)) / stats.decode_ms : null;
}

export function firstToken(job) {
  const { queued_ms = 0, prefill_ms = 0 } = job.stats ?? {};
  return queued_ms + prefill_ms;
}

export function perPass(job) {
  const { completion_tokens = 0, passes = 0 } = job.stats ?? {};
  return passes ? completion_tokens / passes : null;
}

export function acceptance(job) {
  const { checked = 0, taken = 0 } = job.stats ?? {};
  return checked ? taken / checked : null;
}

// A client that went away or asked to stop got what it wanted.
export function failed(job) {
  return Boolean(job.failure) && job.failure.code !== "cancelled";
}

// The colour of a state: what is on its way is no trouble.
export function tone(state) {
  if (["ok", "ready"].includes(state)) return "ok";
  return ["starting", "loading", "draining"].includes(state) ? "quiet" : "bad";
}

const sum = (values) => values.reduce((total, value) => total + (value ?? 0), 0);
const stat = (jobs, name) => sum(jobs.map((job) => job.stats?.[name]));

/** Tokens a second with drafts to those without, of jobs that ended here; null until both are known. */
export function gain(jobs) {
  const finished = jobs.filter((job) => !job.failure && speed(job));
  const rate = (some) => sum(some.map((job) => job.stats.completion_tokens)) / sum(some.map((job) => job.stats.decode_ms));
  const drafted = finished.filter((job) => job.stats.checked);
  const plain = finished.filter((job) => !job.stats.checked);
  return drafted.length && plain.length ? rate(drafted) / rate(plain) : null;
}

export function overall(jobs) {
  const finished = jobs.filter((job) => !job.failure);
  const checked = stat(jobs, "checked");
  const passes = stat(jobs, "passes");
  return {
    jobs: jobs.length,
    failed: jobs.filter(failed).length,
    acceptance: checked ? stat(jobs, "taken") / checked : null,
    perPass: passes ? stat(jobs, "completion_tokens") / passes : null,
    speed: quantile(finished.map(speed), 0.5),
    firstToken: quantile(finished.map(firstToken), 0.5),
    firstToken95: quantile(finished.map(firstToken), 0.95),
  };
}

// An instance has another name after each start; people know a drafter by its model and machine.
export function drafterNames(services) {
  const drafters = services.filter(({ service, facts }) => service === "drafter" && facts?.model);
  return drafters.map(({ instance, node, facts }) => [instance, `${facts.model}@${node}`]);
}

export function byDrafter(jobs, names = new Map()) {
  const found = new Map();
  for (const share of jobs.flatMap((job) => job.stats?.drafters ?? [])) {
    const drafter = names.get(share.drafter) ?? share.drafter;
    const known = found.get(drafter) ?? { drafter, checked: 0, taken: 0 };
    known.checked += share.checked ?? 0;
    known.taken += share.taken ?? 0;
    found.set(drafter, known);
  }
  return [...found.values()].sort((one, other) => other.taken - one.taken);
}

export function byPosition(jobs, most = 12) {
  const found = [];
  for (const { checked_at = [], taken_at = [] } of jobs.map((job) => job.stats ?? {})) {
    checked_at.slice(0, most).forEach((checked, position) => {
      found[position] ??= { checked: 0, taken: 0 };
      found[position].checked += checked;
      found[position].taken += taken_at[position] ?? 0;
    });
  }
  return found.filter((one) => one.checked);
}

// Money for tokens that the target did not have to make in passes of their own.
export function savings(tokens, price, pace) {
  const whole = (30 * tokens * price) / 1_000_000;
  return { whole, saved: pace > 0 ? whole * (1 - 1 / pace) : 0 };
}
