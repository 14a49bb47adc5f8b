// Conversations and settings in this browser.

const CONVERSATIONS = "twd.conversations";
const SETTINGS = "twd.settings";
const MOST = 100;

function read(key, otherwise) {
  try {
    return JSON.parse(localStorage.getItem(key)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

export const settings = {
  system: "", temperature: 0.7, max_tokens: 1024, seed: "", speculation: "auto", marks: false, model: "",
  ...read(SETTINGS, {}),
};

export function saveSettings() {
  localStorage.setItem(SETTINGS, JSON.stringify(settings));
}

export const conversations = read(CONVERSATIONS, []);

// Over plain http from another machine a browser has no crypto.randomUUID.
function freshId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function newConversation() {
  const made = { id: freshId(), title: "", turns: [] };
  conversations.unshift(made);
  conversations.splice(MOST);
  return made;
}

export function save(conversation) {
  const { id, turns } = conversation;
  keep((kept) => {
    const others = kept.filter((one) => one.id !== id);
    return turns.length ? [conversation, ...others] : others;
  });
}

export function forget(conversation) {
  conversations.splice(conversations.indexOf(conversation), 1);
  keep((kept) => kept.filter((one) => one.id !== conversation.id));
}

export function forgetAll() {
  conversations.length = 0;
  keep(() => []);
}

// Another tab may have saved its own since this one began. The oldest give way when the browser has no more room.
function keep(change) {
  const kept = change(read(CONVERSATIONS, [])).slice(0, MOST);
  while (kept.length) {
    try {
      localStorage.setItem(CONVERSATIONS, JSON.stringify(kept));
      return;
    } catch {
      kept.pop();
    }
  }
  localStorage.removeItem(CONVERSATIONS);
}
