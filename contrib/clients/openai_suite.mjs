// The official openai Node client against a running demo.

import assert from "node:assert/strict";
import OpenAI, { BadRequestError, NotFoundError } from "openai";

const url = process.argv[2].replace(/\/$/, "");
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0, timeout: 120_000 });
const model = process.env.TWD_CLIENTS_MODEL ?? "default";
const hi = [{ role: "user", content: "Name three colours." }];
const person = {
  type: "object",
  properties: { name: { type: "string", maxLength: 12 }, age: { type: "integer", maximum: 99 } },
  required: ["name", "age"],
  additionalProperties: false,
};
const weather = {
  type: "function",
  function: {
    name: "weather",
    parameters: {
      type: "object",
      properties: { city: { type: "string", maxLength: 12 } },
      required: ["city"],
      additionalProperties: false,
    },
  },
};
const checks = [];
const add = (name, check) => checks.push([name, check]);
const each = (name, values, check) => values.forEach((v) => add(`${name} ${JSON.stringify(v)}`, () => check(v)));

const asked = (fields) => ({ model, messages: hi, max_tokens: 10, temperature: 0, seed: 7, ...fields });
const chat = (fields) => client.chat.completions.create(asked(fields));

async function streamed(fields) {
  let text = "";
  for await (const chunk of await chat({ ...fields, stream: true })) text += chunk.choices[0]?.delta.content ?? "";
  return text;
}

async function wholeEqualsStream(fields) {
  const [whole, text] = [(await chat(fields)).choices[0].message.content, await streamed(fields)];
  if (!model.endsWith("+consensus")) assert.equal(whole, text); // where drafters vote, streams may differ
}

async function counted(limit) {
  const { usage } = await chat({ max_tokens: limit });
  assert.ok(usage.completion_tokens <= limit);
  assert.equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens);
}

async function stopped(stop) {
  const text = (await chat({ stop, max_tokens: 24 })).choices[0].message.content;
  for (const one of [stop].flat()) assert.ok(!text.includes(one));
}

async function called([choice, stream]) {
  const fields = { tools: [weather], tool_choice: choice, max_tokens: 120 };
  const answer = stream
    ? await client.chat.completions.stream(asked(fields)).finalChatCompletion()
    : await chat(fields);
  const call = answer.choices[0].message.tool_calls[0].function;
  assert.equal(call.name, "weather");
  assert.deepEqual(Object.keys(JSON.parse(call.arguments)), ["city"]);
}

async function schema(strict) {
  const format = { type: "json_schema", json_schema: { name: "person", schema: person, strict } };
  const answer = await chat({ response_format: format, max_tokens: 200 });
  assert.deepEqual(Object.keys(JSON.parse(answer.choices[0].message.content)).sort(), ["age", "name"]);
}

async function vectors([input, count]) {
  const made = await client.embeddings.create({ model, input });
  assert.equal(made.data.length, count);
  for (const one of made.data) {
    const length = one.embedding.reduce((sum, x) => sum + x * x, 0);
    assert.ok(Math.abs(length - 1) < 1e-3, `length ${length}`);
  }
}

async function responseStreams() {
  const kinds = [];
  const fields = { model, input: "Say hello.", max_output_tokens: 16, stream: true };
  for await (const event of await client.responses.create(fields)) kinds.push(event.type);
  assert.equal(kinds[0], "response.created");
  assert.ok(["response.completed", "response.incomplete"].includes(kinds.at(-1)));
}

async function refused(call, kind, word = "") {
  await assert.rejects(call, (error) => error instanceof kind && error.message.includes(word));
}

async function leaves() {
  const stream = await chat({ stream: true, max_tokens: 400 });
  for await (const chunk of stream) if (chunk.choices.length) break;
  stream.controller.abort();
}

add("list models", async () => assert.ok((await client.models.list()).data.length > 0));
add("show a model", () => client.models.retrieve(model));
each("model name", [model, "default", "twd"], (name) => chat({ model: name }));
each("roles", ["system", "developer"], (role) => chat({ messages: [{ role, content: "Be kind." }, ...hi] }));
add("content parts", () => chat({ messages: [{ role: "user", content: [{ type: "text", text: "Hi" }] }] }));
each("stream equals whole", [{}, { temperature: 1 }, { temperature: 0.7, top_p: 0.9 }, { stop: ["\n"] }], wholeEqualsStream);
each("max_tokens", [1, 2, 3, 5, 8], counted);
add("max_completion_tokens", () => chat({ max_tokens: undefined, max_completion_tokens: 3 }));
each("stop", ["\n", ["e"], ["\n", "b", ",", "z"]], stopped);
each("n", [1, 2, 3], async (n) => assert.equal((await chat({ n, temperature: 1 })).choices.length, n));
each("temperature", [0, 0.3, 1, 1.7, 2], (temperature) => chat({ temperature }));
each("penalty", [-2, -1, 1, 2], (p) => chat({ presence_penalty: p, frequency_penalty: p }));
each("logprobs", [1, 5], async (top_logprobs) => {
  const { content } = (await chat({ logprobs: true, top_logprobs })).choices[0].logprobs;
  assert.equal(content[0].top_logprobs.length, top_logprobs);
});
add("usage in the stream", async () => {
  let last;
  for await (const chunk of await chat({ stream: true, stream_options: { include_usage: true } })) last = chunk;
  assert.ok(last.usage.completion_tokens > 0);
});
each("json_schema", [true, false], schema);
add("json_object", () => chat({ response_format: { type: "json_object" } }));
const named = { type: "function", function: { name: "weather" } };
each("forced call", [["required", false], ["required", true], [named, false], [named, true]], called);
each("tool_choice", ["auto", "none"], (tool_choice) => chat({ tools: [weather], tool_choice }));
const completion = (fields) =>
  client.completions.create({ model, prompt: "Once upon a time", max_tokens: 8, ...fields });
each("completion", [{}, { echo: true }, { n: 2 }, { logprobs: 2 }, { prompt: ["a b", "c d"] }], completion);
add("completion streams", async () => {
  for await (const chunk of await completion({ stream: true })) assert.ok(chunk.object);
});
each("embeddings", [["a b", 1], [["a", "b c"], 2], [[1, 2, 3], 1]], vectors);
add("response", async () => {
  const answer = await client.responses.create({ model, input: "Say hello.", max_output_tokens: 16 });
  assert.equal(typeof answer.output_text, "string");
});
add("response streams", responseStreams);
add("a client that leaves", leaves);
add("many at once", () => Promise.all([1, 2, 3, 4, 5].map(() => chat({ max_tokens: 5 }))));
add("own fields", async () => {
  const { response } = await client.chat.completions.create(asked({ twd: { mode: "direct" } })).withResponse();
  assert.equal(response.headers.get("x-twd-mode"), "direct");
});
add("unknown model", () => refused(() => chat({ model: "nothing" }), NotFoundError, "nothing"));
const bad = [{ temperature: 9 }, { n: 0 }, { max_tokens: 0 }, { messages: [] }, { colour: 1 }];
each("refused", bad, (fields) => refused(() => chat(fields), BadRequestError));

const began = Date.now();
let failed = 0;
for (const [name, check] of checks) {
  try {
    await check();
  } catch (error) {
    failed += 1;
    console.log(`FAILED openai (Node): ${name.slice(0, 90)}: ${error.name}: ${String(error.message).slice(0, 300)}`);
  }
}
const took = Math.round((Date.now() - began) / 1000);
console.log(`openai (Node): ${checks.length - failed} of ${checks.length} calls pass, ${took} s`);
process.exit(failed ? 1 : 0);
