"""Intensities: scaled to [0, 1] by minimum and a high percentile, undone exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch

from custom_nets.transforms import RestoreIntensityd, ScaleToUnitRanged
from custom_nets.transforms.intensity import unit_range


def test_known_range():
    values = np.arange(1001.0)
    assert unit_range(values, "minmax") == (0, 1000)
    lo, hi = unit_range(values)
    assert lo == 0 and hi == pytest.approx(1 + 0.999 * 999)


def test_range_does_not_depend_on_the_amount_of_background(blob_volume):
    head = blob_volume().numpy()
    padded = np.full((1, 30, 30, 30), head.min())
    padded[:, :11, :14, :9] = head
    assert unit_range(padded) == pytest.approx(unit_range(head))


@pytest.mark.parametrize("mode", ["percentile", "minmax"])
@pytest.mark.parametrize(("slope", "shift"), [(1, 0), (1e-6, 0), (3000, -1e5)])
def test_there_and_back(blob_volume, mode, slope, shift):
    source = blob_volume() * slope + shift
    item = ScaleToUnitRanged("image", mode=mode)({"image": source})
    image = item["image"]
    assert image.min() == 0 and image.max() >= 1 - 1e-6 and image.max() < 1.2
    if mode == "minmax":
        assert image.max() == pytest.approx(1)
    assert all(type(v) is float for v in image.meta["intensity_lo"] + image.meta["intensity_hi"])
    assert torch.equal(image.affine, source.affine)
    item["pred"] = MetaTensor(image.as_tensor().repeat_interleave(2, -1))  # another size, no meta
    back = RestoreIntensityd()(item)["pred"][..., ::2]
    span = float(source.max() - source.min())
    np.testing.assert_allclose(back.numpy(), source.numpy(), atol=1e-6 * max(span, abs(shift)))


def test_each_channel_has_its_own_range(blob_volume):
    source = MetaTensor(torch.cat([blob_volume().as_tensor(), blob_volume().as_tensor() * 9 - 5]))
    item = ScaleToUnitRanged("image")({"image": source})
    assert torch.allclose(item["image"][0], item["image"][1], atol=1e-5)
    assert len(item["image"].meta["intensity_lo"]) == 2
    back = RestoreIntensityd("image")(item)["image"]
    torch.testing.assert_close(back.as_tensor(), source.as_tensor(), rtol=1e-5, atol=1e-3)
    with pytest.raises(ValueError, match="has 3 channels, 'image' has ranges for 2"):
        RestoreIntensityd()({**item, "pred": torch.zeros(3, 2, 2, 2)})


def test_through_a_data_loader(blob_volume):
    items = [{"image": blob_volume()}, {"image": blob_volume() * 2}]
    (batch,) = DataLoader(Dataset(items, ScaleToUnitRanged("image")), batch_size=2)
    for item, source in zip(decollate_batch(batch), items, strict=True):
        back = RestoreIntensityd("image")(item)["image"]
        torch.testing.assert_close(back.as_tensor(), source["image"].as_tensor(), rtol=1e-5, atol=1e-3)


def test_refusals(blob_volume):
    with pytest.raises(ValueError, match="mode must be"):
        ScaleToUnitRanged("image", mode="max")
    with pytest.raises(ValueError, match="upper_percentile must be"):
        ScaleToUnitRanged("image", upper_percentile=0)
    with pytest.raises(ValueError, match="all intensities are 3"):
        ScaleToUnitRanged("image")({"image": blob_volume() * 0 + 3})
    with pytest.raises(ValueError, match="must be finite"):
        ScaleToUnitRanged("image")({"image": blob_volume() / 0})
    with pytest.raises(ValueError, match="must be a MetaTensor"):
        ScaleToUnitRanged("image")({"image": torch.rand(1, 3, 3, 3)})
    with pytest.raises(ValueError, match="'image' has no intensity range"):
        RestoreIntensityd()({"image": blob_volume(), "pred": blob_volume()})
