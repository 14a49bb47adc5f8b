"""`twd gate calibrate` on the 600 prompts; the members are the judge's own model in fewer bits.

    python contrib/benchmarks/judges/calibrated.py --keep kept.jsonl --seconds 240

Where the time is over, the calibration is of what was asked until then; the next run with this file goes on from there.
"""

import argparse
import json
import subprocess
from pathlib import Path

from consensus import VOTERS
from house import House, house
from prompts import prompts

from twd.bench.product.whole_system import TWD


def calibrate(here: House, options: argparse.Namespace, answers: int, seconds: float | None) -> str:
    """What the command prints; raises TimeoutExpired where it takes longer."""
    asked = here.home / "prompts.jsonl"
    asked.write_text("".join(json.dumps(line) + "\n" for line in prompts()[:answers]), "utf-8")
    command = [*TWD, "gate", "calibrate", str(asked), "--keep", str(options.keep.resolve())]
    command += ["--max-error", "0.05", "--confidence", "0.95", "--max-tokens", str(options.tokens)]
    done = subprocess.run(command, env=here.environment, capture_output=True, text=True, check=False, timeout=seconds)
    return done.stdout + done.stderr


def main() -> None:
    """Print what the calibration found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", nargs="+", default=VOTERS, help="kinds of weights")
    parser.add_argument("--judge", default="f32", help="kind of weights")
    parser.add_argument("--answers", type=int, default=600)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--keep", type=Path, required=True, help="file for what each prompt gave")
    parser.add_argument("--seconds", type=float, help="end the asking after that")
    options = parser.parse_args()
    models = {"big": options.judge, **{kind: kind for kind in options.members}}
    with house(models, (), gate={"fleet": list(options.members)}) as here:
        try:
            print(calibrate(here, options, options.answers, options.seconds))
        except subprocess.TimeoutExpired:
            asked = len(options.keep.read_text("utf-8").split()) // len(options.members)
            print(calibrate(here, options, asked, None))


if __name__ == "__main__":
    main()
