"""`twd gate calibrate` on the 600 prompts: a member that is the judge's own model in fewer bits.

    python contrib/benchmarks/judges/calibrated.py --member q4_0 --keep kept.jsonl --seconds 240

Where the time is over, the calibration is of what was asked until then; the next run with this file goes on from there.
"""

import argparse
import json
import subprocess
from pathlib import Path

from house import House, house
from prompts import prompts

from twd.bench.product.whole_system import TWD


def calibrate(here: House, options: argparse.Namespace, answers: int, seconds: float | None) -> str:
    """What the command prints; raises TimeoutExpired where it takes longer."""
    asked = here.home / "prompts.jsonl"
    asked.write_text("".join(json.dumps(line) + "\n" for line in prompts()[:answers]), "utf-8")
    command = [*TWD, "gate", "calibrate", str(asked), "--member", "writes", "--keep", str(options.keep.resolve())]
    command += ["--max-error", "0.05", "--confidence", "0.95", "--max-tokens", str(options.tokens)]
    command += ["--plot", str(options.plot.resolve())] if options.plot else []
    done = subprocess.run(command, env=here.environment, capture_output=True, text=True, check=False, timeout=seconds)
    return done.stdout + done.stderr


def main() -> None:
    """Print what the calibration found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--member", default="q4_0", help="kind of weights")
    parser.add_argument("--judge", default="f32", help="kind of weights")
    parser.add_argument("--answers", type=int, default=600)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--keep", type=Path, required=True, help="file of this member for what each prompt gave")
    parser.add_argument("--seconds", type=float, help="end the asking after that")
    parser.add_argument("--plot", type=Path, help="file for the ROC curve, SVG")
    options = parser.parse_args()
    gate = {"fleet": ["writes"]}
    with house({"big": options.judge, "writes": options.member}, (), gate=gate) as here:
        try:
            print(calibrate(here, options, options.answers, options.seconds))
        except subprocess.TimeoutExpired:
            print(calibrate(here, options, len(options.keep.read_text("utf-8").split()), None))


if __name__ == "__main__":
    main()
