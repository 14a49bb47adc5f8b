"""Reads the forerunner's files and variables: each old key takes its new place, with a hint of the new name."""

from collections.abc import Mapping
from urllib.parse import urlsplit

import msgspec

from twd.settings.errors import Problem, SettingPlace, nearest
from twd.settings.model import CoordinatorConfig
from twd.settings.tree import Path, SettingNode, put_node

MOVED_KEYS = {
    "proxy.host": "edge.host",
    "proxy.port": "edge.port",
    "proxy.auth_token": "edge.token",
    "proxy.allow_private_upstream": "edge.allow_private_upstream",
    "proxy.max_tokens_limit": "edge.max_tokens_limit",
    "proxy.max_body_size": "edge.max_body_size",
    "proxy.max_draft_tokens": "speculation.max_draft_tokens",
    "proxy.fallback_on_draft_failure": "speculation.fallback_on_draft_failure",
    "proxy.consensus_mode": "consensus.policy",
    "proxy.mode": "mode",
    "coordinator.host": "pool.llama_server.host",
    "coordinator.port": "pool.llama_server.port",
    "coordinator.gpus": "pool.gpus",
    "coordinator.backend": "engine.backend",
    "coordinator.env": "engine.env",
    "coordinator.extra_args": "engine.extra_args",
    "workers": "pool.workers",
    "binaries.coordinator": "agent.binaries.llama_server",
    "binaries.rpc_server": "agent.binaries.rpc_server",
    "peer.host": "agent.host",
    "peer.port": "agent.port",
    "peer.auth_token": "agent.token",
    "peer.model_dirs": "agent.model_dirs",
    "quality_gate.agents": "gate.agents",
    "quality_gate.routing": "gate.routing",
    "quality_gate.verification_prompt": "gate.verification_prompt",
    "quality_gate.max_retries": "gate.max_retries",
    "quality_gate.cache_identical": "gate.cache_identical",
    "quality_gate.fail_open": "gate.fail_open",
}
DRAFTER_KEYS = ("proxy.draft", "proxy.drafters", "proxy.draft_fallback", "draft_fallback")
TARGET_KEYS = {"proxy.target": "target", "quality_gate.verifier": "verifier"}
COORDINATOR_MODEL = "coordinator.model"
DROPPED_KEYS = {
    "proxy.chat_template": "the model's own template is used; models.NAME.chat_template takes a Jinja file",
    "quality_gate.host": "the gate answers at edge.host",
    "quality_gate.port": "the gate answers at edge.port",
    "quality_gate.auth_token": "the gate asks for edge.token",
}
RETIRED_KEYS = {
    "speculation.tree": "a second guess for one place costs more than it brings, so there is one for each",
    "speculation.linger": "guesses are waited for wherever that pays",
}
"""Keys of our own that earlier versions took."""
OLD_KEYS = (*MOVED_KEYS, *DRAFTER_KEYS, *TARGET_KEYS, COORDINATOR_MODEL, *DROPPED_KEYS)
OLD_SECTIONS = dict.fromkeys(key.split(".")[0] for key in OLD_KEYS if "." in key)
OLD_LLAMA_SERVER_PORT = 8080

MOVED_VARIABLES = {
    "TIGHTWAD_TOKEN": ("edge.token", "swarm.token"),
    "TIGHTWAD_PROXY_TOKEN": ("edge.token",),
    "TIGHTWAD_HOST": ("edge.host",),
    "TIGHTWAD_PORT": ("edge.port",),
    "TIGHTWAD_ALLOW_UNAUTHENTICATED": ("edge.allow_unauthenticated",),
    "TIGHTWAD_ALLOW_PRIVATE_UPSTREAM": ("edge.allow_private_upstream",),
    "TIGHTWAD_MAX_TOKENS_LIMIT": ("edge.max_tokens_limit",),
    "TIGHTWAD_MAX_BODY_SIZE": ("edge.max_body_size",),
    "TIGHTWAD_MAX_DRAFT_TOKENS": ("speculation.max_draft_tokens",),
    "TIGHTWAD_CONSENSUS_MODE": ("consensus.policy",),
    "TIGHTWAD_PEER_TOKEN": ("agent.token",),
}
SERVER_VARIABLES = {
    f"TIGHTWAD_{role.upper()}_{part.upper()}": f"proxy.{role}.{name}"
    for role in ("draft", "target")
    for part, name in (("url", "url"), ("model", "model_name"), ("backend", "backend"))
}
DROPPED_VARIABLES = {"TIGHTWAD_CHAT_TEMPLATE": DROPPED_KEYS["proxy.chat_template"]}


def old_variables(
    env: Mapping[str, str], folder: str
) -> tuple[dict[Path, SettingNode], dict[Path, SettingNode], list[str]]:
    """What the forerunner's variables give: by old key (servers), by our key (the rest), and hints."""
    by_old_key: dict[Path, SettingNode] = {}
    by_new_key: dict[Path, SettingNode] = {}
    hints: list[str] = []
    known = [name for name in (*MOVED_VARIABLES, *SERVER_VARIABLES, "TIGHTWAD_DISABLE_PREWARM") if env.get(name)]
    for name in known:
        leaf = SettingNode(value=env[name], place=SettingPlace(name, folder=folder), loose=True)
        if name in SERVER_VARIABLES:
            by_old_key[_path(SERVER_VARIABLES[name])] = leaf
            hints.append(f"{name}: in a file this is now {new_home(name)}")
        elif name == "TIGHTWAD_DISABLE_PREWARM":
            by_new_key["prewarm",] = msgspec.structs.replace(leaf, value=env[name] != "1", loose=False)
            hints.append(f"{name} is now TWD_PREWARM=off")
        else:
            by_new_key.update({_path(key): leaf for key in MOVED_VARIABLES[name]})
            hints.append(f"{name} is now {' and '.join(_variable(key) for key in MOVED_VARIABLES[name])}")
    return by_old_key, by_new_key, hints + _unread(env, known)


def _unread(env: Mapping[str, str], known: list[str]) -> list[str]:
    rest = [name for name in sorted(env) if name.startswith("TIGHTWAD_") and env[name] and name not in known]
    rest = [name for name in rest if name != "TIGHTWAD_CONFIG"]
    return [f"{name} is not read: {DROPPED_VARIABLES.get(name, 'no setting has this name')}" for name in rest]


def _variable(key: str) -> str:
    return "TWD_TOKEN" if key == "edge.token" else "TWD_" + key.replace(".", "_").upper()


def new_home(variable: str) -> str:
    """The setting that a variable of the draft or target server has become."""
    role, name = SERVER_VARIABLES[variable].split(".")[1:]
    return f"{'drafters[]' if role == 'draft' else 'backends.NAME'}.{'kind' if name == 'backend' else name}"


def translate(tree: SettingNode) -> tuple[list[Problem], list[str]]:
    """Moves old keys to their new places, in place; returns what is wrong and one hint for each."""
    move = _Move(tree)
    move.drop(RETIRED_KEYS)
    if isinstance(tree.value, dict) and any(key.split(".")[0] in tree.value for key in OLD_KEYS):
        move.everything()
    return move.problems, move.hints


class _Move:
    """One translation of one tree."""

    def __init__(self, tree: SettingNode) -> None:
        self.tree = tree
        self.problems: list[Problem] = []
        self.hints: list[str] = []

    def everything(self) -> None:
        self.open_sections()
        self.public_host()
        self.target_in_pool()
        for old, new in MOVED_KEYS.items():
            if node := self.take(old):
                self.settle(node, old, new)
        for old in DRAFTER_KEYS:
            if node := self.take(old):
                self.drafters(node, old)
        self.coordinator_model()
        for old, fallback_name in TARGET_KEYS.items():
            if node := self.take(old):
                self.target(node, old, fallback_name)
        self.drop(DROPPED_KEYS)
        self.pool()
        self.leftovers()

    def drop(self, keys: Mapping[str, str]) -> None:
        for key, why in keys.items():
            if node := self.take(key):
                self.hint(node, f"{key} is not read: {why}")

    def open_sections(self) -> None:
        for name in OLD_SECTIONS:
            node = self.find((name,))
            if node and node.value is None:
                node.value = {}
            elif node and not isinstance(node.value, dict):
                self.report(node, name, "not a section", "a section")
                self.take(name)

    def public_host(self) -> None:
        proxy = self.find(("proxy",))
        if proxy and proxy.place.line and not self.find(("proxy", "host")) and not self.find(("edge", "host")):
            self.hint(proxy, "proxy.host is not given: edge.host is 127.0.0.1 now; for a LAN set it, and a token")

    def target_in_pool(self) -> None:
        """A target that is the pool's own llama-server needs no entry: twd runs that model itself."""
        url = self.find(("proxy", "target", "url"))
        runs_models = self.find(("models",)) or self.find(("coordinator", "model"))
        if url and runs_models and self.find(("coordinator",)) and self.is_llama_server(str(url.value)):
            self.hint(url, "proxy.target is the pool's own llama-server: twd runs that model itself, no key needed")
            self.take("proxy.target")

    def is_llama_server(self, url: str) -> bool:
        host, port = (self.find(("coordinator", name)) for name in ("host", "port"))
        hosts = {"127.0.0.1", "localhost", "::1", host.value if host else None}
        try:
            parts = urlsplit(url)
            return parts.hostname in hosts and parts.port == (port.value if port else OLD_LLAMA_SERVER_PORT)
        except ValueError:
            return False

    def drafters(self, node: SettingNode, old: str) -> None:
        several = isinstance(node.value, list)
        for number, item in enumerate(node.value if isinstance(node.value, list) else [node]):
            item.was = f"{old}[{number}]" if several else old
            self.server(item)
            if old.endswith("draft_fallback") and isinstance(item.value, dict):
                item.value["fallback"] = SettingNode(value=True, place=item.place)
            listed = self.section("drafters", [])
            if isinstance(listed.value, list):
                listed.value.append(item)
        role = " with fallback: true" if old.endswith("draft_fallback") else ""
        self.hint(node, f"{old} is now an entry of drafters{role}")

    def target(self, node: SettingNode, old: str, fallback_name: str) -> None:
        node.was = old
        self.server(node)
        named = self.find(("model_name",), node)
        name = str(named.value) if named and named.value else fallback_name
        name = f"{name}-{fallback_name}" if self.find(("models", name)) or self.find(("backends", name)) else name
        if old == "proxy.target" and not self.has_default() and isinstance(node.value, dict):
            node.value["default"] = SettingNode(value=True, place=node.place)
        elif old == "quality_gate.verifier":
            put_node(self.tree, ("gate", "verifier"), SettingNode(value=name, place=node.place))
        put_node(self.tree, ("backends", name), node)
        self.hint(node, f"{old} is now backends.{name}")

    def coordinator_model(self) -> None:
        node = self.take(COORDINATOR_MODEL)
        if node is None:
            return
        name = str(node.value).replace("\\", "/").rsplit("/", 1)[-1].removesuffix(".gguf")
        node.was = COORDINATOR_MODEL
        entry = {"path": node}
        if not self.has_default():
            entry["default"] = SettingNode(value=True, place=node.place)
        put_node(self.tree, ("models", name), SettingNode(value={**entry}, place=node.place))
        self.hint(node, f"{COORDINATOR_MODEL} is now models.{name}.path")

    def server(self, node: SettingNode) -> None:
        """A server's `backend` is its `kind`."""
        kind = node.value.pop("backend", None) if isinstance(node.value, dict) else None
        if kind and isinstance(node.value, dict):
            kind.was = f"{node.was}.backend"
            node.value["kind"] = kind

    def has_default(self) -> bool:
        entries = [self.find((section,)) for section in ("models", "backends")]
        named = [entry.value.values() for entry in entries if entry and isinstance(entry.value, dict)]
        marks = [self.find(("default",), node) for nodes in named for node in nodes]
        return any(mark and mark.value is not False for mark in marks)

    def pool(self) -> None:
        """The forerunner's workers are llama.cpp RPC servers without any protection of their own."""
        workers = self.find(("pool", "workers"))
        if workers and workers.was and not self.find(("pool", "engine")):
            put_node(self.tree, ("pool", "engine"), SettingNode(value="rpc", place=workers.place))
            self.hint(workers, "pool.engine is rpc for these workers; machines that run twd can form a `ring` instead")
            if not self.find(("pool", "trusted_lan")):
                self.hint(workers, "workers without an agent are reached only with pool.trusted_lan: true")

    def leftovers(self) -> None:
        own = {f"coordinator.{field}" for field in CoordinatorConfig.__struct_fields__}
        for section in OLD_SECTIONS:
            node = self.find((section,))
            for name, child in list(node.value.items()) if node and isinstance(node.value, dict) else []:
                key = f"{section}.{name}"
                if key not in own:
                    self.report(child, key, "unknown key", "", nearest(key, [*own, *OLD_KEYS]))
                    self.take(key)
            if node and section != "coordinator":
                self.take(section)

    def settle(self, node: SettingNode, old: str, new: str) -> None:
        if taken := self.find(_path(new)):
            self.report(node, old, f"{new} is given too ({taken.place})", "only the new name")
            return
        if old == "quality_gate.agents" and isinstance(node.value, list):
            for agent in node.value:
                agent.was = old
                self.server(agent)
        node.was = old
        put_node(self.tree, _path(new), node)
        self.hint(node, f"{old} is now {new}")

    def find(self, path: Path, start: SettingNode | None = None) -> SettingNode | None:
        node = start or self.tree
        for name in path:
            if not isinstance(node.value, dict) or name not in node.value:
                return None
            node = node.value[name]
        return node

    def take(self, key: str) -> SettingNode | None:
        *above, name = _path(key)
        parent = self.find(tuple(above))
        return parent.value.pop(name, None) if parent and isinstance(parent.value, dict) else None

    def section(self, name: str, empty: list[SettingNode]) -> SettingNode:
        node = self.find((name,))
        if node is None or node.value is None:
            node = SettingNode(value=empty, place=self.tree.place)
            put_node(self.tree, (name,), node)
        return node

    def hint(self, node: SettingNode, text: str) -> None:
        if node.place.line:
            self.hints.append(text)

    def report(self, node: SettingNode, key: str, what: str, wanted: str, best: str = "") -> None:
        place = node.key_place or node.place
        self.problems.append(Problem(place=place, key=key, found=what, expected=wanted, nearest=best))


def _path(key: str) -> Path:
    return tuple(key.split("."))
