"""The numbers of a record in plain words, and what of a record may be said to anybody."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = [
    "dicom_identity", "evaluation_facts", "reconstruction_facts", "run_facts", "shown_name", "shown_names",
    "volume_facts", "without_names",
]  # fmt: skip

Facts = list[tuple[str, str]]

# an option's value that may name a person, a place or an examination
_PRIVATE_OPTIONS = ("series_uid", "like", "input", "dataset_dir", "output_dir", "checkpoint")
_IDENTITY = (
    ("PatientName", "patient"),
    ("PatientID", "patient id"),
    ("PatientBirthDate", "born"),
    ("StudyDate", "examined"),
    ("AccessionNumber", "accession number"),
    ("StudyDescription", "study"),
    ("SeriesDescription", "series"),
)
_DATE = re.compile(r"(19|20)\d\d[-._]?[01]\d[-._]?[0-3]\d")


def number(value: float, digits: int = 4) -> str:
    """At most so many digits that count, no exponent, a point as decimal sign."""
    text = f"{value:.{digits}g}"
    return f"{float(text):f}".rstrip("0").rstrip(".") if "e" in text else text


def _times(values: Sequence[float], unit: str = "") -> str:
    return " x ".join(number(v) for v in values) + unit


def _dicom_file(path: str | Path) -> Path | None:
    from custom_nets.data.dicom.files import dicom_files, is_dicom_file

    path = Path(path)
    if path.is_dir():
        return next(dicom_files(path), None)
    return path if path.is_file() and is_dicom_file(path) else None


def dicom_identity(path: str | Path | None) -> Facts:
    """Who a DICOM file or folder is about: (what, text) of the elements that it has. Nothing for other files."""
    found = _dicom_file(path) if path else None
    if found is None:
        return []
    import pydicom

    header = pydicom.dcmread(found, stop_before_pixels=True, force=True)
    return [(word, str(header[name].value)) for name, word in _IDENTITY if name in header and str(header[name].value)]


def shown_name(case: str, source: str | Path | None, number: int = 1) -> str:
    """The name of a case, or "case 1" where that would tell who or when: a part of the patient's name, id or dates in
    the DICOM header, or anything that looks like a date."""
    try:
        identity = dicom_identity(source)
    except OSError:
        identity = []
    private = {
        part.casefold()
        for word, text in identity
        if word in ("patient", "patient id", "born", "examined", "accession number")
        for part in [text, *re.split(r"[\s^=,._-]+", text)]
        if len(part) >= 3
    }
    name = case.casefold()
    return f"case {number}" if _DATE.search(case) or any(part in name for part in private) else case


def shown_names(sources: Mapping[str, str | Path], identity: bool = False) -> dict[str, str]:
    """Case -> how a page calls it, for cases and the files that they come from: see :func:`shown_name`."""
    return {
        case: case if identity else shown_name(case, source, number)
        for number, (case, source) in enumerate(sources.items(), 1)
    }


def without_names(text: str, names: Sequence[str]) -> str:
    """A sentence without the names of files and folders in it."""
    for name in sorted(filter(None, names), key=len, reverse=True):
        text = text.replace(name, "the input")
    return re.sub(r"(?<![\w.])(?:/|[A-Z]:\\)[^\s,;:'\")]+", "a file", text)


def _names_of(record: Mapping[str, Any]) -> list[str]:
    file = record["input"].get("file") or ""
    return [str(file), Path(file).name, str(record.get("case") or "")]


def _asked(options: Mapping[str, Any], identity: bool) -> str:
    """Options that were set, in the order of the record."""
    parts = []
    for name, value in options.items():
        if value is None:
            continue
        a_path = isinstance(value, str) and bool({"/", "\\"} & set(value))
        private = not identity and (name in _PRIVATE_OPTIONS or a_path)
        shown = "given" if private else _plainly(value)
        parts.append(f"{name.replace('_', ' ')} {shown}")
    return "; ".join(parts) or "nothing beyond the defaults"


def _plainly(value: Any) -> str:
    """A value of a config in words."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} ({_plainly(inner)})" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return _times(value) if all(isinstance(v, int | float) for v in value) else ", ".join(map(_plainly, value))
    return _short(value) or str(value)


def _made(record: Mapping[str, Any]) -> Facts:
    """How it was made."""
    versions = record["versions"]
    weights = record["checkpoint"].get("sha256")
    return [
        ("network", f"{record['network']}, " + (f"weights {weights[:12]}" if weights else "fitted to this scan")),
        ("computed on", f"{record['device']}, {record['threads']} threads, {number(record['seconds'])} s"),
        ("memory", f"at most {number(record['peak_memory_gib'], 3)} GiB"),
        ("software", ", ".join(f"{k} {versions[k]}" for k in ("custom_nets", "torch", "monai") if k in versions)),
        ("result's SHA-256", str(record["output"].get("sha256"))),
    ]


def _who(record: Mapping[str, Any], identity: bool) -> Facts:
    if not identity:
        return []
    file = record["input"]["file"]
    return [("case", str(record["case"])), ("file", str(file)), *dicom_identity(file)]


def volume_facts(record: Mapping[str, Any], identity: bool = False) -> tuple[list[str], Facts]:
    """What a reader of a super-resolved volume has to know.

    Args:
        record: of :class:`custom_nets.handlers.InferenceRecord`.
        identity: say the case, its file, and who it is.

    Returns:
        Warnings, and (term, text).
    """
    source, target, consistency = record["input"], record["output"], record["consistency"]
    done = record.get("inference") or {}
    warnings = [*record.get("warnings", ()), *done.get("warnings", ())]
    if note := source.get("geometry_note"):
        warnings.append(str(note))
    measured = _times(source["spacing_mm"], " mm")
    if "slice_thickness_mm" in source:
        measured += f", slices {number(source['slice_thickness_mm'])} mm thick"
        gap = float(source.get("slice_gap_mm", 0))
        measured += f", {number(abs(gap))} mm {'apart' if gap > 0 else 'overlapping'}" if gap else ""
    if consistency.get("computed"):
        again = (
            f"differs from the input by {number(100 * consistency['rms'], 3)} % of its range (root mean square), "
            f"{number(100 * consistency['max'], 3)} % at most; slice profile taken as {consistency['assumed_profile']}"
        )
    else:
        again = f"not computed: {consistency.get('reason')}"
    facts: Facts = [
        *_who(record, identity),
        ("measured", f"{_times(source['shape'])} voxels of {measured}"),
        ("result", f"{_times(target['shape'])} voxels of {_times(target['spacing_mm'], ' mm')}"),
        ("asked", _asked(record["options"], identity)),
        ("measured again, the result", again),
        *((name.replace("_", " "), text) for name, value in done.items() if (text := _short(value))),
        *_made(record),
        ("mind", str(record["note"])),
    ]
    if source.get("volumes", 1) > 1:
        facts.insert(2, ("volumes", f"{source['volumes']}; the first is shown"))
    return _cleaned(warnings, facts, record, identity)


def _short(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return number(value)
    return value if isinstance(value, str) and len(value) < 120 else ""


def run_facts(record: Mapping[str, Any], identity: bool = False) -> tuple[list[str], Facts]:
    """The same for a lengthened run, of the record of :class:`custom_nets.handlers.RunRecord`."""
    source, target = record["input"], record["output"]
    made = len(target["synthetic_frames"])
    warnings = [*record["warnings"]]
    if not target["has_times"]:
        warnings.append("The file says nothing about time: frames are taken as evenly spaced.")
    if not record["measured_frames_unchanged"]:
        warnings.append("Measured frames differ from those of the input.")
    facts: Facts = [
        *_who(record, identity),
        ("measured", f"{source['frames']} frames of {_times(source['size'])} pixels, {source['dtype']}"),
        ("result", f"{target['frames']} frames, {made} of them made; measured ones are unchanged"),
        ("asked", _asked(record["options"], identity)),
        *((f"note {k}", note) for k, note in enumerate(source["notes"], 1)),
        *_made(record),
        ("mind", str(record["note"])),
    ]
    return _cleaned(warnings, facts, record, identity)


def reconstruction_facts(record: Mapping[str, Any], identity: bool = False) -> tuple[list[str], Facts]:
    """The same for a 4D volume, of the record of :class:`custom_nets.handlers.ReconstructionRecord`."""
    source, target, scores = record["input"], record["output"], record["left_out_views"]
    angles, fit = source["angles_deg"], record["fit"]
    views = (
        f"{scores['views']} views {scores['which']}: {number(scores['psnr'], 3)} dB, SSIM {number(scores['ssim'], 3)}, "
        f"off by {number(100 * scores['nrmse'], 3)} % of their size (the mean picture by "
        f"{number(100 * scores['nrmse_of_the_mean_picture'], 3)} %)"
    )
    facts: Facts = [
        *_who(record, identity),
        (
            "measured",
            f"{source['frames']} frames of {_times(source['size'])} pixels over {number(source['times_s'][-1])} s, "
            f"{number(angles[0])} to {number(angles[-1])} degrees; {len(source['kept_frames'])} of them fitted",
        ),
        ("result", f"{_times(target['shape'])} voxels of {_times(target['spacing_mm'], ' mm')}, {target['unit']}"),
        ("how it fits", views),
        ("asked", _asked(record["options"], identity)),
        *((f"note {k}", str(note)) for k, note in enumerate([*source["notes"], *(fit["notes"] if fit else ())], 1)),
        *_made(record),
        ("mind", str(record["note"])),
    ]
    return _cleaned(record["warnings"], facts, record, identity)


def evaluation_facts(report: Mapping[str, Any], identity: bool = False) -> Facts:
    """How an evaluation was made, of its JSON report."""
    versions = report["versions"]
    files = report["files"]
    weights = [str(file.get("sha256"))[:12] for file in files if file["name"] == "checkpoint"]
    return [
        ("asked", _asked(report["options"], identity)),
        *([("weights", ", ".join(weights))] if weights else []),
        ("files", f"{len(files)}, listed with SHA-256 in the JSON report beside this page"),
        ("computed on", f"{report['device']}, {number(report['seconds'])} s"),
        ("software", ", ".join(f"{k} {versions[k]}" for k in ("custom_nets", "torch", "monai") if k in versions)),
    ]


def _cleaned(
    warnings: Sequence[str], facts: Facts, record: Mapping[str, Any], identity: bool
) -> tuple[list[str], Facts]:
    if identity:
        return [str(text) for text in warnings], facts
    names = _names_of(record)
    return [without_names(str(text), names) for text in warnings], [(t, without_names(x, names)) for t, x in facts]
