"""A student in stages: each inherits from the one before, and all of them imitate the teacher.

    python -m custom_nets.apps.distill_stages arssr --shares 0.75 0.5 --dataset_dir DATA --output_dir STUDENTS

What is cut at once is missed more than what is cut in steps with training in between (TinyCLIP, ICCV 2023). Each stage
is the bundle's training with distill.json, in a folder of its own; further options go to all of them. A stage that
is finished is not run again, one that was stopped goes on.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from custom_nets.bundle import bundle_root
from custom_nets.utils.commands import CommandParser

__all__ = ["main", "stages"]


def stages(bundle: str, shares: list[float], output_dir: Path, options: list[str]) -> list[tuple[Path, list[str]]]:
    """The folder and the command of each stage.

    Args:
        bundle: name.
        shares: of the teacher's weights, falling.
        output_dir: that gets a folder for each, named by its percent.
        options: of all commands.

    Raises:
        ValueError: shares that do not fall, or are not between 0 and 1.
    """
    if not shares or not all(0 < small < large for small, large in zip(shares, [1.001, *shares[:-1]], strict=True)):
        raise ValueError(f"--shares must fall, from at most 1 and above 0, got {shares}.")
    configs = Path(bundle_root(bundle)) / "configs"
    files = str([str(configs / "train.json"), str(configs / "distill.json")])
    found: list[tuple[Path, list[str]]] = []
    for share in shares:
        folder = output_dir / f"{100 * share:g}_percent"
        command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", files, "--student_share", str(share)]
        command += ["--output_dir", str(folder), *options]
        if found:
            command += ["--inherit_from", str(found[-1][0] / "model.pt")]
        found.append((folder, command))
    return found


def main(argv: list[str] | None = None) -> None:
    """``python -m custom_nets.apps.distill_stages BUNDLE --shares 0.75 0.5 --output_dir OUT ...``"""
    parser = CommandParser(prog="python -m custom_nets.apps.distill_stages", description=__doc__.split("\n")[0])
    parser.add_argument("bundle", help="name of a bundle that has distill.json")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.75, 0.5], help="of the teacher's weights")
    parser.add_argument("--output_dir", type=Path, required=True, help="a folder for each stage comes into it")
    args, options = parser.parse_known_args(argv)
    try:
        planned = stages(args.bundle, args.shares, args.output_dir, options)
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    for folder, command in planned:
        if (folder / "model_last.pt").is_file():  # which is written at the end
            print(f"{folder} is finished")
            continue
        going_on = ["--resume", "True"] if (folder / "checkpoint.pt").is_file() else []
        if code := subprocess.run([*command, *going_on]).returncode:
            raise SystemExit(code)


if __name__ == "__main__":
    main()
