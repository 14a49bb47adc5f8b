"""A trained head for a model of one's own: its texts, the file, what it brings. Training has a script of its own.

python contrib/heads texts MODEL --out FOLDER
python contrib/heads export head.npz MODEL --texts FOLDER --out head.gguf
python contrib/heads measure head.gguf
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from contrib.heads import measure
from contrib.heads.head_gguf import KINDS, write_head
from contrib.heads.target import read_target
from contrib.heads.texts import write_texts


def export(args: argparse.Namespace) -> None:
    """Write the file."""
    facts, _ = read_target(args.texts / "target.npz")
    with np.load(args.weights) as found:
        weights = {name: found[name] for name in found.files if name != "vocabulary"}
        write_head(args.out, args.model, weights, found["vocabulary"], facts, args.kind)
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB")


def parser() -> argparse.ArgumentParser:
    """The commands."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = found.add_subparsers(required=True)
    texts = commands.add_parser("texts", help="let the model write what a head learns from")
    texts.add_argument("model", type=Path, help="GGUF file of the target, best with weights in f32 or f16")
    texts.add_argument("--out", type=Path, required=True)
    texts.add_argument("--tokens", type=int, default=150_000)
    texts.add_argument("--minutes", type=float, default=15.0, help="no longer than this")
    texts.add_argument("--layers", type=int, nargs=3, help="whose inputs the head reads")
    texts.add_argument("--together", type=int, default=32, help="texts that grow at once")
    texts.add_argument("--longest", type=int, default=256, help="tokens of a text, its prompt included")
    texts.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 0.0, 0.7])
    texts.add_argument("--own", type=int, default=6, help="texts whose question the model writes, for each prompt")
    texts.add_argument("--threads", type=int, default=1)
    texts.add_argument("--gpu-layers", type=int, default=0)
    texts.add_argument("--seed", type=int, default=0, help="another one for each process that writes")
    texts.set_defaults(run=write_texts)
    file = commands.add_parser("export", help="write trained weights as a GGUF file")
    file.add_argument("weights", type=Path)
    file.add_argument("model", type=Path)
    file.add_argument("--texts", type=Path, required=True, help="the folder of the texts")
    file.add_argument("--out", type=Path, default=Path("head.gguf"))
    file.add_argument("--kind", choices=sorted(KINDS), default="q8_0", help="type of its matrices")
    file.set_defaults(run=export)
    measure.add_options(commands.add_parser("measure", help="ask the head's model with it and without"))
    return found


if __name__ == "__main__":
    args = parser().parse_args()
    args.run(args)
