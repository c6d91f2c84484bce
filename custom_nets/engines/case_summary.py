"""What became of each case of a folder: a JSON file and a few lines for whoever started it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from custom_nets.utils.files import write_json

__all__ = ["FAILED", "DONE", "SUMMARY", "SKIPPED", "CaseResult", "write_summary"]

SUMMARY = "summary.json"
DONE, SKIPPED, FAILED = "made", "already there", "failed"


@dataclass
class CaseResult:
    """One case.

    Attributes:
        number: place in the list of cases, from 1.
        case: its name.
        input: path of the image.
        rank: number of the process that had it.
        status: "made", "already there" (of an earlier, interrupted run) or "failed".
        seconds: how long it took.
        output: path of the result; None for a failed case.
        message: why it failed.
    """

    number: int
    case: str
    input: str
    rank: int = 0
    status: str = DONE
    seconds: float = 0.0
    output: str | None = None
    message: str | None = None


def _without_folders(result: CaseResult) -> dict[str, Any]:
    """As it is written: names of files, but no folders, which can say whose they are."""
    place, output = Path(result.input), result.output and Path(result.output).name
    message = result.message
    for text in (str(place), f"{place.parent}/") if message and place.parent != Path(".") else ():
        message = message.replace(text, place.name if text == str(place) else "")  # type: ignore[union-attr]
    return {**asdict(result), "input": place.name, "output": output, "message": message}


def write_summary(path: Path, results: Sequence[CaseResult], processes: int, seconds: float) -> None:
    """Write the JSON file and print how many cases were made, there and failed, for each process.

    Args:
        path: of the file.
        results: all cases in the order of the list.
        processes: how many shared them.
        seconds: of the whole run.
    """

    def counts(rank: int | None = None) -> dict[str, int]:
        found = Counter(result.status for result in results if rank in (None, result.rank))
        return {status: found[status] for status in (DONE, SKIPPED, FAILED)}

    write_json(
        path,
        {
            "cases": len(results),
            **{status.replace(" ", "_"): number for status, number in counts().items()},
            "processes": processes,
            "seconds": round(seconds, 1),
            "results": [_without_folders(result) for result in results],
        },
    )
    rows = [(f"process {rank}", counts(rank)) for rank in range(processes)] if processes > 1 else []
    print(f"{'':12} {'cases':>7} {DONE:>7} {SKIPPED:>14} {FAILED:>7}")
    for name, row in [*rows, ("all", counts())]:
        print(f"{name:12} {sum(row.values()):7} {row[DONE]:7} {row[SKIPPED]:14} {row[FAILED]:7}")
    print(f"{seconds:.1f} s, each case in {path}", flush=True)
