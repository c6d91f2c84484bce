"""Picture of an evaluation on thick slices: one plane that contains the thick axis, all methods side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from custom_nets.evaluation.tables import OURS
from custom_nets.evaluation.volumes.lesions import plant, planted
from custom_nets.evaluation.volumes.measures import thick_axis_of
from custom_nets.geometry import Grid, nearest_axes
from custom_nets.metrics.tissues import TISSUES
from custom_nets.visualize.figure import (
    PLANES,
    UprightVolume,
    colour_bar,
    draw_letters,
    foreground_box,
    panels,
    save_figure,
)

__all__ = ["draw_item", "thick_comparison_figure"]

CAPTIONS = {"bspline": "B-spline", "trilinear": "trilinear"}
COLOURS = ("#000000", "#2c7fb8", "#7f7f7f", "#f7f7f7")  # outside, fluid, grey matter, white matter


def thick_comparison_figure(
    path: str | Path,
    truth: Any,
    methods: Mapping[str, Any],
    mask: Any,
    thick_axis: int,
    tissue_maps: Mapping[str, NDArray] | None = None,
    captions: Mapping[str, str] | None = None,
    focus: NDArray | None = None,
    title: str = "",
) -> Path:
    """Truth and methods in a plane that contains the thick axis; below, the errors and the tissue maps.

    The plane is sagittal, or coronal where the thick axis runs from left to right.

    Args:
        path: PNG to write (whole or not at all).
        truth: MetaTensor [..., X, Y, Z].
        methods: name -> [..., X, Y, Z] on the truth's grid, drawn in this order.
        mask: [..., X, Y, Z], above zero inside: sets plane, crop, grey window and error scale.
        thick_axis: of the array.
        tissue_maps: "truth" or a method -> labels [X, Y, Z]; those that are there are drawn.
        captions: name -> text above its column.
        focus: [X, Y, Z]: the plane goes through most of what is above zero here.
        title: line above the picture.

    Returns:
        ``path``.
    """
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    grid = Grid.of(truth)
    reference = UprightVolume.of(truth, grid)
    inside = UprightVolume.of(mask, grid).data > 0
    if not inside.any():
        raise ValueError("the mask is empty: no place to draw.")
    world = nearest_axes(grid.affine)[0].index(thick_axis)
    _, across, horizontal, vertical, letters = PLANES[1] if world == 0 else PLANES[2]
    name_of_plane = "coronal" if world == 0 else "sagittal"
    box = foreground_box(inside)
    # a third of the way from the middle to the side: between the hemispheres there is little to see
    index = int(round(box[across].start + 0.36 * (box[across].stop - box[across].start)))
    if focus is not None and (focus > 0).any():
        other = tuple(a for a in range(3) if a != across)
        index = int((UprightVolume.of(focus, grid).data > 0).sum(other).argmax())
    upright = {"truth": reference.data, **{n: UprightVolume.of(v, grid).data for n, v in methods.items()}}
    errors = {n: np.abs(v - reference.data) for n, v in upright.items() if n != "truth"}
    maps = {n: UprightVolume.of(v, grid).data for n, v in (tissue_maps or {}).items() if n in upright}
    low, high = np.percentile(reference.data[inside], (0.1, 99.8))
    low = min(low, float(reference.data.min()))
    scale = max((float(np.percentile(error[inside], 99.5)) for error in errors.values()), default=1.0) or 1.0

    rows: list[tuple[str, Mapping[str, NDArray], dict[str, Any]]] = [
        (name_of_plane, upright, {"cmap": "gray", "vmin": low, "vmax": high}),
        ("|difference to truth|", errors, {"cmap": "inferno", "vmin": 0.0, "vmax": scale}),
    ]
    if maps:
        rows.append(("tissue map", maps, {"cmap": ListedColormap(COLOURS), "vmin": 0, "vmax": 3}))
    spacing = reference.grid.spacing_mm
    sizes = np.array([a.stop - a.start for a in box]) * spacing
    heights = [sizes[vertical] / sizes[horizontal]] * len(rows)
    figure, axes = panels([1.0] * len(upright), heights, header=1.0 if title else 0.7, right=0.7, inches=3.0)
    for row, (label, volumes, style) in enumerate(rows):
        for column, name in enumerate(upright):
            ax = axes[row][column]
            if column == 0:
                ax.set_ylabel(label, fontsize=11)
            if row == 0:
                ax.set_title((captions or {}).get(name, CAPTIONS.get(name, name)), fontsize=11)
            if name not in volumes:
                ax.set_facecolor("white")
                ax.set_frame_on(False)
                if row == 1 and maps:
                    names = [*TISSUES]
                    patches = [Patch(facecolor=COLOURS[TISSUES[n]], edgecolor="k", label=n.upper()) for n in names]
                    ax.legend(handles=patches, loc="lower center", frameon=False, fontsize=10)
                continue
            shown = UprightVolume(volumes[name], reference.grid).plane(across, index)[box[vertical], box[horizontal]]
            drawn = ax.imshow(
                shown, origin="lower", interpolation="nearest", aspect=spacing[vertical] / spacing[horizontal], **style
            )
            if (row, column) == (0, 0):
                draw_letters(ax, letters)
        if row == 1 and errors:
            colour_bar(figure, axes[1:2], drawn)
    if title:
        figure.suptitle(title, fontsize=13, y=1 - 0.12 / figure.get_figheight(), va="top")
    return save_figure(figure, path)


def draw_item(path: Path, item: Mapping[str, Any]) -> None:
    """Draw what ``ScoreMethodsd`` has measured: for ``EvaluationReport(picture=...)``."""
    score = {
        (r["method"], r["metric"]): r["value"] for r in item["scores"] if r["region"] in ("brain", "lesions")
    }  # fmt: skip
    keys = {"bspline": "bspline", "pred": OURS}
    keys.update({m: m for m, _ in score if m not in keys.values()})
    shown = {name: item[key] for key, name in keys.items() if key in item}
    captions = {}
    for name in shown:
        numbers = [f"PSNR {score[name, 'psnr']:.2f} dB"] if (name, "psnr") in score else []
        numbers += [f"Dice {score[name, 'dice_mean']:.3f}"] if (name, "dice_mean") in score else []
        captions[name] = "\n".join([CAPTIONS.get(name, name), ", ".join(numbers)]).strip()
    focus = None
    if (known := planted(item)) is not None:
        lesions, white, _ = known
        focus = np.abs(plant(np.zeros(white.shape), lesions, Grid.of(item["label"]).spacing_mm, 1.0)) > 0.5
    record = item["record"]
    thickness = " x ".join(f"{s:.3g}" for s in record["input_spacing_mm"])
    thick_comparison_figure(
        path,
        item["label"],
        shown,
        item["scored_mask"],
        thick_axis_of(Grid.of(item["image"]), Grid.of(item["label"])),
        tissue_maps=item.get("tissue_maps"),
        captions=captions,
        focus=focus,
        title=f"{record['degradation']}: voxels of {thickness} mm",
    )
