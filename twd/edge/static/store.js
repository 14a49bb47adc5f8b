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

export function forget(conversation) {
  conversations.splice(conversations.indexOf(conversation), 1);
  saveConversations();
}

// The oldest conversations give way when the browser has no more room.
export function saveConversations() {
  const kept = conversations.filter((conversation) => conversation.turns.length);
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
