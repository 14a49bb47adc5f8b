"""The page `docs/models.md` and the table `twd/gguf_tools/tried.py`, from what was tried."""

from collections.abc import Mapping
from typing import Final

from twd.chat.tool_calls.formats import ToolFormat
from twd.gguf_tools.abilities import GOING_BACK, REUSE, TrialResult
from twd.gguf_tools.cut_points import SliceRule
from twd.gguf_tools.head_file import CHAINED, FLAT, GIVE_INPUTS, OWN_HEADS
from twd.gguf_tools.slice_table import RULES, UNCUT
from twd.gguf_tools.tried import LLAMA_CPP_PYTHON, TRIED

_BEGIN: Final = """# Models

What twd does with each architecture, by trials of tiny random models. This page was written by
`python -m contrib.architectures.try_all`; a [test](../tests/gguf_tools/test_abilities.py) compares it with the program.

What is not in the table was not tried. It is found out when such a model is loaded: what llama.cpp loads is served, and
drafted for if it can go back. A ring takes only architectures of this table.

- **exact**: windows of drafts give the logits of single steps bit by bit, on a processor with our kernels. Each model
  is tested again when it is loaded.
- **drafts**: texts with drafts are those without, greedy and sampled.
- **going back**: how rejected drafts are undone.
- **prompts**: what of an earlier prompt a new one need not read again.
- **own head**: whether the head in the model's file (multi-token prediction, `nextn` layers) guesses, and whether there
  may be several. An EAGLE-3 head in a file of its own guesses for those that are marked with EAGLE-3.
- **ring**: whether `mode: combined` with `pool.engine: ring` spreads its layers over machines. Logits are then those of
  the whole model, bit by bit, whatever the cut.
"""
_TABLE: Final = (
    "\n| architecture | exact | drafts | going back | prompts | own head | ring |\n|---|---|---|---|---|---|---|\n"
)
_HEADS: Final = """
## Trained heads

What a head guesses is verified like any other draft, so it never changes a text. One that does not fit is left aside
with its reason, and the model is served without it.

- **A head in the model's own file** is found by itself; `speculation.own_head: false` turns it off. On a ring it works
  on the last stage: its guesses come with the tokens. Over RPC it guesses if the output head stays at home, because the
  hidden states come there anyway; otherwise each guess would be a trip to the output head and a row of logits back.
- **Such a head in a file of its own**, without the model's other layers, is named as `--head FILE` (`twd up`, `start`,
  `plan`) or `drafters: [{head: FILE}]`, and guesses on one machine.
- **Several heads in one file** ({chained}): each guesses one token more. Of other architectures llama.cpp computes one.
- **An EAGLE-3, DFlash, DSpark or DFlash 2 head** is named in the same way; `twd init` finds it, `twd inspect` tells
  which one it is. It guesses for the architectures marked with EAGLE-3, on one machine only: it reads the inputs of
  some layers. On a ring they lie on other machines than the output, and to take them along would make what travels
  with each token several times as large. Over RPC each would be a round trip more for every pass.
  [contrib/heads](../contrib/heads/README.md) trains an EAGLE-3 head of a small model.
- **DSpark** takes each guess with regard to the one before it, and tells how sure it is. llama.cpp does that with the
  likeliest tokens; where the sampler takes another one, the logits of the 1,024 likeliest tokens of the next place are
  corrected here. **DFlash 2** chooses each guess among a few. Both may have blocks of up to 32 tokens. The layers of a
  DSpark head may be as those of DeepSeek V4.
- **Gemma 4's assistant** (`gemma4-assistant`) is named in the same way, too. It has no KV cells: it reads those of the
  model's last two layers, so it guesses on one machine only, and only where they lie in this machine's memory: with
  layers on a card it was not tried, and is left aside.
- Heads of {flat} models guess on one machine only: llama.cpp takes states of that architecture only with sections
  of positions, and its head only without.
"""
_TOOLS: Final = """
## Tool calls and thoughts

These do not depend on the architecture but on the chat template. Read are calls in these formats:

"""
_THOUGHTS: Final = """
Thoughts are read in all marks of [chat/thoughts.py](../twd/chat/thoughts.py), and in the channels of gpt-oss.
"""
_MODULE: Final = '''"""What was tried of each architecture. Written by contrib/architectures/try_all.py."""

from typing import Final

from twd.gguf_tools.abilities import TrialResult, Undoing

LLAMA_CPP_PYTHON: Final = "{version}"
"""The version it was tried with."""

TRIED: Final[dict[str, TrialResult]] = {{
{rows}
}}
'''


def page() -> str:
    """The text of `docs/models.md`."""
    rows = [_row(name, TRIED[name]) for name in sorted(TRIED)]
    formats = ", ".join(f"`{one.value}`" for one in ToolFormat)
    tried = f"\nTried with llama-cpp-python {LLAMA_CPP_PYTHON}: {len(rows)} architectures.\n"
    return (
        _BEGIN
        + tried
        + _TABLE
        + "\n".join(rows)
        + "\n"
        + _HEADS.replace("{chained}", ", ".join(sorted(CHAINED))).replace("{flat}", ", ".join(sorted(FLAT)))
        + _TOOLS
        + _wrapped(formats)
        + "\n"
        + _THOUGHTS
    )


def module(found: Mapping[str, TrialResult], version: str) -> str:
    """The text of `twd/gguf_tools/tried.py`."""
    return _MODULE.format(
        version=version, rows="\n".join(f'    "{name}": {_call(found[name])},' for name in sorted(found))
    )


def _call(found: TrialResult) -> str:
    given = [f"exact={found.exact}", f"undoing=Undoing.{found.undoing.name}"]
    given += [] if found.drafted else ["drafted=False"]
    given += ["one_session=True"] if found.one_session else []
    return f"TrialResult({', '.join(given)})"


def _row(name: str, found: TrialResult) -> str:
    sessions = "; one session at a time" if found.one_session else ""
    drafts = "yes" if found.drafted and found.undoing != "nothing" else "no"
    undoing = GOING_BACK[found.undoing]
    return (
        f"| {name} | {'yes' if found.exact else 'near'} | {drafts} | {undoing}{sessions} | {REUSE[found.undoing]} "
        f"| {_heads(name)} | {_ring(name)} |"
    )


def _heads(name: str) -> str:
    own = "several" if name in CHAINED else "yes" if name in OWN_HEADS else ""
    assistant = "assistant" if name == "gemma4" else ""
    return ", ".join(filter(None, (own, "EAGLE-3" if name in GIVE_INPUTS else "", assistant)))


def _ring(name: str) -> str:
    rule = RULES.get(name)
    if rule is None:
        return f"no: {UNCUT.get(name, 'slices of it are not proven to be exact')}"
    return "; ".join(("yes", *_limits(rule)))


def _limits(rule: SliceRule) -> list[str]:
    told = []
    if rule.first_multiple > 1 or rule.step:
        told.append(f"cuts at multiples of {rule.first_multiple if rule.first_multiple > 1 else 'its ' + rule.step}")
    if rule.odd_counts:
        few = ", ".join(str(count) for count in sorted(rule.odd_counts)[:4])
        told.append(f"no slice of {few}{' and more' if len(rule.odd_counts) > 4 else ''} layers")
    if rule.shared_indexers:
        told.append("no cut before a layer that shares an indexer")
    if not rule.lone_head:
        told.append("the last slice has layers of each kind")
    told += [f"not with {name}" for name in rule.unless]
    told += [f"not without {name}" for name in rule.needs]
    return told


def _wrapped(words: str) -> str:
    import textwrap

    return textwrap.fill(words, 118, break_on_hyphens=False, break_long_words=False) + "."
