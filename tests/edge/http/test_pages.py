"""The pages: what they are made of, and what they do in a real browser."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.edge.browser import CHROMIUM, Tab, open_tab
from tests.edge.conftest import House, OpenHouse, ctx
from tests.edge.fake_speculator import WORDS, Script
from tests.edge.monitoring.test_history import Historian
from twd.edge.http.pages import FOLDER
from twd.wire.job import CALIBRATION, Thoughts

PICTURES = os.environ.get("TWD_TEST_PICTURES")
"""A folder for screenshots, for whoever wants to look at them."""
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="no node on this machine")

ANSWER = [
    "# Title\n\nSome **bold** text,",
    " `code` and <img src=x onerror=alert(1)>.\n\n",
    "```python\nprint('<b>')\n```\n\n",
    "- one\n- two\n\n[link](https://example.com) [bad](javascript:alert(1))\n\n",
    "| a | b |\n|---|---|\n| 1 | 2 |\n",
]


async def test_pages_come_with_a_strict_policy(house: House) -> None:
    for path in ("/", "/dashboard", *(f"/static/{file.name}" for file in FOLDER.iterdir())):
        response = await house.http.get(house.edge.url + path)
        assert response.status == 200
        policy = response.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        again = await house.http.get(house.edge.url + path, headers={"If-None-Match": response.headers["ETag"]})
        assert again.status == 304


def test_pages_name_no_other_host_and_hold_no_inline_code() -> None:
    for file in FOLDER.iterdir():
        text = file.read_text()
        hosts = set(re.findall(r"https?://([a-z0-9.-]+\.[a-z]+)", text)) - {"www.w3.org"}
        assert hosts == set(), file.name
        assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|\beval\(", text), file.name
        if file.suffix == ".html":
            assert not re.search(r"<script>|<style|\son\w+=|\sstyle=", text), file.name


async def test_pages_load_without_a_key_but_show_nothing(open_house: OpenHouse) -> None:
    house = await open_house(token="t" * 40)
    assert (await house.http.get(house.edge.url + "/")).status == 200
    assert (await house.http.get(house.edge.url + "/static/chat.js")).status == 200
    assert (await house.http.get(house.edge.url + "/v1/models")).status == 401


@needs_node
def test_figures_and_savings() -> None:
    script = f"""
      import * as f from "{(FOLDER / "figures.js").as_uri()}";
      const jobs = [
        {{stats: {{checked: 10, taken: 5, passes: 5, completion_tokens: 10, decode_ms: 100, queued_ms: 1, prefill_ms: 9,
          drafters: [{{drafter: "n", checked: 10, taken: 5}}], checked_at: [6, 4], taken_at: [4, 1]}}}},
        {{failure: {{code: "busy"}}}},
        {{failure: {{code: "cancelled"}}}},
      ];
      console.log(JSON.stringify([f.overall(jobs), f.byDrafter(jobs), f.byPosition(jobs), f.savings(1e6, 1, 2),
        f.quantile([3, 1, 2], 0.5), f.quantile([], 0.5), f.overall([]),
        ["ok", "loading", "failed"].map(f.tone)]));
    """
    done = subprocess.run(["node", "--input-type=module", "-e", script], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    overall, drafters, positions, savings, median, nothing, empty, tones = json.loads(done.stdout)
    assert overall["acceptance"] == 0.5
    assert overall["perPass"] == 2
    assert overall["speed"] == 100
    assert overall["firstToken"] == 10
    assert overall["failed"] == 1
    assert drafters == [{"drafter": "n", "checked": 10, "taken": 5}]
    assert positions == [{"checked": 6, "taken": 4}, {"checked": 4, "taken": 1}]
    assert savings == {"whole": 30, "saved": 15}
    assert (median, nothing) == (2, None)
    assert empty["acceptance"] is None
    assert tones == ["ok", "quiet", "bad"]


@needs_node
def test_the_gain_is_of_jobs_with_drafts_to_jobs_without() -> None:
    script = f"""
      import {{ gain }} from "{(FOLDER / "figures.js").as_uri()}";
      const job = (checked, completion_tokens, decode_ms) => ({{stats: {{checked, completion_tokens, decode_ms}}}});
      const failed = {{failure: {{code: "busy"}}, stats: {{checked: 0, completion_tokens: 1, decode_ms: 9999}}}};
      const plain = [job(0, 10, 500), job(0, 30, 1500)];
      console.log(JSON.stringify([gain([...plain, job(20, 40, 1000), failed]), gain(plain), gain([])]));
    """
    assert in_node(script) == [2, None, None]


@needs_node
def test_drafters_are_known_by_model_and_machine_over_their_restarts() -> None:
    script = f"""
      import * as f from "{(FOLDER / "figures.js").as_uri()}";
      const share = (drafter) => ({{stats: {{drafters: [{{drafter, checked: 10, taken: 5}}]}}}});
      const names = new Map(f.drafterNames([
        {{service: "drafter", instance: "drafter.vm.now", node: "vm", facts: {{model: "small"}}}},
        {{service: "edge", instance: "edge.vm.x", node: "vm", facts: {{}}}},
      ]));
      console.log(JSON.stringify(f.byDrafter([share("small@vm"), share("drafter.vm.now"), share("ngram")], names)));
    """
    assert in_node(script) == [
        {"drafter": "small@vm", "checked": 20, "taken": 10},
        {"drafter": "ngram", "checked": 10, "taken": 5},
    ]


STAND_INS = """
class Element {
  constructor(tag) { Object.assign(this, { tag, children: [], on: {}, className: "", value: "" }); }
  append(...children) { this.children.push(...children); }
  addEventListener(event, handler) { this.on[event] = handler; }
  setAttribute() {}
  select() { selected = this.value; }
  remove() {}
}
let selected = "", copied = [];
const body = new Element("body");
globalThis.document = { body, createElement: (tag) => new Element(tag), querySelector: () => null,
  execCommand: (command) => copied.push([command, selected]) };
globalThis.localStorage = { getItem: () => null, setItem: () => {}, removeItem: () => {} };
const random = crypto.getRandomValues.bind(crypto);
Object.defineProperty(globalThis, "crypto", { value: { getRandomValues: random } });
Object.defineProperty(globalThis, "navigator", { value: {} });
"""


def in_node(script: str) -> Any:
    """What a script prints as JSON, among stand-ins for a browser that came over plain http."""
    done = subprocess.run(
        ["node", "--input-type=module", "-e", STAND_INS + script], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@needs_node
def test_jobs_that_only_measure_are_none_of_the_dashboards() -> None:
    told = in_node(f"""
      const {{ asked }} = await import("{(FOLDER / "figures.js").as_uri()}");
      console.log(JSON.stringify(["{CALIBRATION}1", "1-calibration", "1"].filter((job) => asked({{ job }}))));
    """)
    assert told == ["1-calibration", "1"]


@needs_node
def test_over_plain_http_conversations_begin_and_text_is_copied() -> None:
    first, second, copied = in_node(f"""
      const {{ newConversation }} = await import("{(FOLDER / "store.js").as_uri()}");
      const {{ render }} = await import("{(FOLDER / "markdown.js").as_uri()}");
      const [{{ children: [head] }}] = render("```\\nsome code\\n```");
      await head.children[1].on.click();
      console.log(JSON.stringify([newConversation().id, newConversation().id, copied]));
    """)
    assert len(first) == 32
    assert first != second
    assert copied == [["copy", "some code"]]


@needs_node
def test_what_another_tab_saved_stays() -> None:
    mine, theirs, left = in_node(f"""
      const kept = new Map();
      globalThis.localStorage = {{ getItem: (key) => kept.get(key) ?? null, setItem: (key, text) => kept.set(key, text),
        removeItem: (key) => kept.delete(key) }};
      const store = "{(FOLDER / "store.js").as_uri()}";
      const [one, other] = [await import(store + "?1"), await import(store + "?2")];
      const ids = () => JSON.parse(kept.get("twd.conversations") ?? "[]").map(({{ id }}) => id);
      const [first, second] = [one.newConversation(), other.newConversation()];
      for (const made of [first, second]) made.turns.push({{ role: "user", text: "x" }});
      one.save(first), other.save(second);
      const both = ids();
      one.forget(first);
      console.log(JSON.stringify([both.includes(first.id), both.includes(second.id), ids().length]));
    """)
    assert (mine, theirs, left) == (True, True, 1)


@needs_node
def test_a_rule_is_one_line() -> None:
    assert in_node(f"""
      const {{ render }} = await import("{(FOLDER / "markdown.js").as_uri()}");
      console.log(JSON.stringify(render("a\\n---\\nb").map((one) => one.tag)));
    """) == ["p", "hr", "p"]


@needs_node
@pytest.mark.parametrize("mark", [">", "> ", "- "])
def test_text_nested_without_end_is_shown(mark: str) -> None:
    assert in_node(f"""
      const {{ render }} = await import("{(FOLDER / "markdown.js").as_uri()}");
      const lines = Array.from({{ length: 300 }}, (_, depth) => "  ".repeat(depth) + {json.dumps(mark)} + "a");
      console.log(JSON.stringify([render({json.dumps(mark)}.repeat(8000)).length, render(lines.join("\\n")).length]));
    """)


@needs_node
@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a `b` c", ["a ", ["code", "b"], " c"]),
        ("``a`b`` `c``", [["code", "a`b"], " `c``"]),
        ("`open **x `y` z**", [["code", "open **x"], "y` z**"]),
        ("[a](HTTP://b) [c](javascript:d)", [["a", "a"], " [c](javascript:d)"]),
    ],
)
def test_code_and_links(text: str, parts: list[Any]) -> None:
    told = in_node(f"""
      const {{ inline }} = await import("{(FOLDER / "markdown.js").as_uri()}");
      const shown = (one) => typeof one === "string" ? one : [one.tag, ...one.children];
      console.log(JSON.stringify(inline({json.dumps(text)}).map(shown)));
    """)
    assert [part if isinstance(part, str) else [part[0], part[1].strip()] for part in told] == [
        part if isinstance(part, str) else [part[0], part[1].strip()] for part in parts
    ]


@needs_node
@pytest.mark.parametrize("piece", ["`", "[", "[](", "[](http://", "**a*", "*a ", "| ", "- ", "`a``b"])
def test_no_text_takes_the_square_of_its_length(piece: str) -> None:
    """Where it did, these would take longer than the script may."""
    text = f"{json.dumps(piece)}.repeat({300_000 // len(piece)})"
    if piece == "`":
        text = "Array.from({ length: 700 }, (_, n) => '`'.repeat(n + 1)).join('a')"
    assert in_node(f"""
      const {{ render }} = await import("{(FOLDER / "markdown.js").as_uri()}");
      console.log(render({text}).length);
    """)


async def ask(tab: Tab, house: House, words: str) -> None:
    """Type a question on the chat page."""
    await tab.open(house.edge.url + "/")
    await tab.until("document.querySelector('#model option')")
    await tab.run("document.getElementById('words').focus()")
    await tab.type(words)
    await tab.press("Enter")


@needs_browser
async def test_a_chat_in_a_browser(open_house: OpenHouse, tmp_path: Path) -> None:
    house = await open_house(Script(words=ANSWER, per_event=1))
    async with open_tab(tmp_path / "browser") as tab:
        await tab.resize(1200, 800)
        await ask(tab, house, "Hello <b>you</b>")
        await tab.until("document.querySelector('.figures')")
        said = "document.querySelector('.assistant .words')"
        assert await tab.run(f"{said}.querySelector('h3').textContent") == "Title"
        assert await tab.run(f"{said}.querySelector('pre code').textContent") == "print('<b>')"
        assert await tab.run(f"{said}.querySelectorAll('li').length") == 2
        assert await tab.run(f"{said}.querySelectorAll('td').length") == 2
        assert await tab.run(f"[...{said}.querySelectorAll('a')].map((a) => a.href)") == ["https://example.com/"]
        assert await tab.run("document.querySelectorAll('#talk img').length") == 0
        assert await tab.run("document.querySelector('.user .words').textContent") == "Hello <b>you</b>"
        assert "50 % of guesses right" in await tab.run("document.querySelector('.figures').textContent")
        side = "document.querySelector('#side').getBoundingClientRect().right"
        drop = "document.querySelector('#list li button:not(.name)').getBoundingClientRect().right"
        assert await tab.run(f"{drop} <= {side}")
        if PICTURES:
            await tab.picture(Path(PICTURES) / "chat.png")
        await tab.resize(390, 800, dark=True)
        assert await tab.run("document.documentElement.scrollWidth") == 390
        if PICTURES:
            await tab.run("document.querySelector('[name=marks]').click()")
            await tab.run(
                "document.getElementById('settings').showModal(), document.getElementById('settings').close()"
            )
            await tab.picture(Path(PICTURES) / "chat-phone.png")
        assert tab.problems == []
        assert {url.split("/")[2] for url in tab.requests} == {f"127.0.0.1:{house.edge.server.port}"}


@needs_browser
async def test_stop_retry_and_edit_by_keyboard(open_house: OpenHouse, tmp_path: Path) -> None:
    house = await open_house(Script(hang_after=2))
    async with open_tab(tmp_path / "browser") as tab:
        await tab.open(house.edge.url + "/")
        await tab.until("document.querySelector('#model option')")
        await tab.run("document.getElementById('words').focus()")
        await tab.type("first")
        await tab.press("Enter")
        await tab.until("document.querySelector('.assistant .words').textContent.includes('Hello')")
        await tab.press("Escape")
        await house.speculator.cancel_heard.wait()
        await tab.until("document.querySelector('#stop.hidden')")
        house.speculator.release.set()
        await tab.run("[...document.querySelectorAll('.tools button')].find((b) => b.textContent === 'Retry').click()")
        await tab.until("document.querySelector('.figures')")
        assert "".join(WORDS) in await tab.run("document.querySelector('.assistant .words').textContent")
        await tab.run("[...document.querySelectorAll('.tools button')].find((b) => b.textContent === 'Edit').click()")
        assert await tab.run("document.getElementById('words').value") == "first"
        await tab.run("location.reload()")
        await tab.until("document.querySelector('#model option')")
        assert tab.problems == []


@needs_browser
async def test_escape_closes_the_settings_and_leaves_the_answer(open_house: OpenHouse, tmp_path: Path) -> None:
    house = await open_house(Script(hang_after=2))
    async with open_tab(tmp_path / "browser") as tab:
        await ask(tab, house, "first")
        await tab.until("document.querySelector('.assistant .words').textContent.includes('Hello')")
        await tab.run("document.getElementById('show-settings').click()")
        await tab.press("Escape")
        await tab.until("!document.getElementById('settings').open")
        house.speculator.release.set()
        await tab.until("document.querySelector('.figures')")
        assert "".join(WORDS) in await tab.run("document.querySelector('.assistant .words').textContent")
        assert not house.speculator.cancel_heard.is_set()


@needs_browser
async def test_a_long_line_is_seen_whole_and_a_lost_server_is_told(open_house: OpenHouse, tmp_path: Path) -> None:
    house = await open_house()
    async with open_tab(tmp_path / "browser") as tab:
        await tab.resize(600, 800)
        await tab.open(house.edge.url + "/")
        await tab.until("document.querySelector('#model option')")
        await tab.run("document.getElementById('words').focus()")
        await tab.type("long words " * 20)
        words = "document.getElementById('words')"
        assert await tab.run(f"{words}.scrollHeight <= {words}.clientHeight")
        await tab.send(
            "Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0
        )
        await tab.press("Enter")
        await tab.until("document.querySelector('.error')?.textContent.includes('does not answer')")
        assert await tab.run(f"{words}.clientHeight") < 60


@needs_browser
async def test_a_login_and_the_dashboard(open_house: OpenHouse, tmp_path: Path) -> None:
    house = await open_house(token="t" * 40)
    historian = Historian(ctx(house.broker, 8))
    await historian.start()
    async with open_tab(tmp_path / "browser") as tab:
        await tab.resize(1300, 1000)
        await tab.open(house.edge.url + "/dashboard")
        await tab.until("document.getElementById('login').open")
        await tab.type("wrong")
        await tab.press("Enter")
        await tab.until("document.querySelector('#login .error').textContent.includes('wrong')")
        await tab.run("document.querySelector('[name=key]').value = ''")
        await tab.type("t" * 40)
        await tab.press("Enter")
        await tab.until("document.getElementById('live').textContent === 'live'")
        assert await tab.run("document.querySelectorAll('#jobs tr').length") == 3
        await tab.until("document.querySelectorAll('#services tr').length === 3")
        me = {"Authorization": "Bearer " + "t" * 40}
        await house.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}, headers=me)
        await tab.until("document.querySelectorAll('#jobs tr').length === 4")
        assert "50 %" in await tab.run("document.getElementById('drafters').textContent")
        await tab.run("document.querySelectorAll('#jobs tr')[1].querySelector('button').click()")
        await tab.until("document.querySelectorAll('#story li').length === 2")
        if PICTURES:
            await tab.run("document.getElementById('trace').close()")
            await tab.picture(Path(PICTURES) / "dashboard.png")
            await tab.resize(390, 1000, dark=True)
            await tab.picture(Path(PICTURES) / "dashboard-phone.png")
        problems = [problem for problem in tab.problems if "401" not in problem]
        assert problems == []
    await historian.stop()


@needs_browser
async def test_thoughts_are_open_while_the_model_thinks_and_folded_when_it_answers(
    open_house: OpenHouse, tmp_path: Path
) -> None:
    words = ["<think>\n", "The capital", " of Norway?", "</think>\n\n", "**Oslo**", "."]
    marks = Thoughts("<think>", "</think>")
    house = await open_house(Script(words=words, per_event=1, thoughts=marks, hang_after=3))
    async with open_tab(tmp_path / "browser") as tab:
        await tab.resize(900, 500)
        await ask(tab, house, "Hello")
        thought = "document.querySelector('.assistant .thought')"
        await tab.until(f"{thought}.open && {thought}.querySelector('p').textContent === 'The capital of Norway?'")
        house.speculator.release.set()
        await tab.until("document.querySelector('.figures')")
        assert not await tab.run(f"{thought}.open")
        assert await tab.run("document.querySelector('.assistant strong').textContent") == "Oslo"
        await tab.run(f"{thought}.querySelector('summary').click()")
        await tab.until(f"{thought}.open")
        if PICTURES:
            await tab.picture(Path(PICTURES) / "thoughts.png")
        assert tab.problems == []
