// Talks to the edge: JSON, server-sent events, and the key that it may ask for.

export class ApiError extends Error {
  constructor(status, body) {
    super(body?.error?.message ?? `HTTP ${status}`);
    this.status = status;
    this.advice = body?.error?.advice ?? "";
  }
}

async function checked(response) {
  if (response.ok) return response;
  let body = null;
  try {
    body = await response.json();
  } catch {
    body = { error: { message: `HTTP ${response.status}` } };
  }
  throw new ApiError(response.status, body);
}

// A browser's own words are "Failed to fetch" or "network error".
async function reached(promise) {
  try {
    return await promise;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    const advice = "`twd status` on its machine tells whether it runs.";
    throw new ApiError(0, { error: { message: "The server does not answer, or the connection broke.", advice } });
  }
}

export async function getJson(path) {
  return (await checked(await reached(fetch(path)))).json();
}

export async function postJson(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  return checked(await reached(fetch(path, { method: "POST", headers, body: JSON.stringify(body), signal })));
}

// Yields the objects of a stream of `data:` lines; comments keep it alive and say nothing.
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reached(reader.read());
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: ")) continue;
      const data = line.slice(6);
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new ApiError(0, event);
      yield event;
    }
  }
}

// Asks for a key where one is needed; resolves when the door is open.
export async function enter() {
  const state = await getJson("/login");
  if (!state.needed || state.name) return state;
  const dialog = document.getElementById("login");
  const form = dialog.querySelector("form");
  const told = dialog.querySelector(".error");
  dialog.addEventListener("cancel", (event) => event.preventDefault());
  dialog.showModal();
  return new Promise((resolve) => {
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      try {
        const answer = await postJson("/login", { key: form.elements.key.value });
        form.reset();
        dialog.close();
        resolve(await answer.json());
      } catch (error) {
        told.textContent = error.message;
      }
    });
  });
}

export async function leave() {
  await postJson("/logout", {});
  location.reload();
}
