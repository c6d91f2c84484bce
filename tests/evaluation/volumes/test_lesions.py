import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from custom_nets.evaluation.volumes.lesions import KINDS, PlantLesionsd, lesion_kept, place_lesions, plant
from custom_nets.transforms import DegradeVolumed

SIZE = np.ones(3)
SHAPE = (56, 60, 50)


@pytest.fixture(scope="module")
def white():
    at = np.stack(np.meshgrid(*(np.arange(n) - n / 2 for n in SHAPE), indexing="ij"))
    return (at**2).sum(0) < 22**2


@pytest.fixture(scope="module")
def lesions(white):
    return place_lesions(white, SIZE, (2, 4, 6), count=4, seed=1)


def test_places_are_seeded_inside_and_apart(white, lesions):
    assert lesions == place_lesions(white, SIZE, (2, 4, 6), count=4, seed=1)
    assert lesions != place_lesions(white, SIZE, (2, 4, 6), count=4, seed=2)
    assert [lesion.diameter_mm for lesion in lesions] == [6] * 4 + [4] * 4 + [2] * 4
    assert [lesion.kind for lesion in lesions[:4]] == ["dark", "bright"] * 2
    centres = np.array([lesion.centre for lesion in lesions])
    distances = np.linalg.norm(centres[:, None] - centres, axis=-1) + 99 * np.eye(len(lesions))
    assert distances.min() > 5
    for lesion in lesions:
        assert np.prod(lesion.radii_mm) == pytest.approx((lesion.diameter_mm / 2) ** 3)
        assert white[tuple(np.round(lesion.centre).astype(int))]


def test_lesions_have_their_size_and_amplitude(white, lesions):
    change = plant(np.zeros(SHAPE), lesions, SIZE, 10.0)
    volume = sum(np.pi / 6 * lesion.diameter_mm**3 * KINDS[lesion.kind] for lesion in lesions[:4:2])
    first = change * 0
    for lesion in lesions[:4:2]:
        first += plant(np.zeros(SHAPE), [lesion], SIZE, 10.0)
    assert first.sum() / 10 == pytest.approx(volume, rel=0.06)  # a soft edge on a sphere adds a little
    assert change.max() == pytest.approx(10, rel=0.03) and change.min() == pytest.approx(-10, rel=0.03)


def test_an_untouched_volume_keeps_everything_and_an_empty_one_nothing(white, lesions):
    base = np.where(white, 100.0, 0).astype(np.float32)
    truth = plant(base, lesions, SIZE, 35.0)
    for row in lesion_kept(truth, truth, lesions, white, SIZE, 35.0):
        assert row["contrast_percent"] == pytest.approx(100) and row["volume_percent"] == pytest.approx(100)
    for row in lesion_kept(base, truth, lesions, white, SIZE, 35.0):
        assert row["contrast_percent"] == pytest.approx(0, abs=1e-3) and row["volume_percent"] == 0
    half = (truth + base) / 2
    assert [r["contrast_percent"] for r in lesion_kept(half, truth, lesions, white, SIZE, 35.0)] == pytest.approx(
        [50] * len(lesions)
    )


def test_voxels_may_be_of_any_size():
    size = np.array([0.5, 1.0, 2.0])
    white = np.ones((80, 40, 20), bool)
    white[0], white[-1], white[:, 0], white[:, -1], white[..., 0], white[..., -1] = (False,) * 6
    lesions = place_lesions(white, size, (6,), count=2)
    change = plant(np.zeros(white.shape), lesions[:1], size, -1.0)
    assert change.sum() * size.prod() == pytest.approx(np.pi / 6 * 6**3, rel=0.06)
    where = np.argwhere(change > 0.5) * size
    assert np.ptp(where, axis=0) == pytest.approx([5.5, 5, 4], abs=2)


def test_small_lesions_fade_in_thick_slices(white, lesions):
    from custom_nets.geometry import Grid
    from custom_nets.operators.scipy_resampling import resample_bspline

    truth = plant(np.where(white, 100.0, 0), lesions, SIZE, 35.0)
    volume = MetaTensor(truth[None], affine=torch.eye(4))
    low = DegradeVolumed("x", scale=(1, 1, 5))({"x": volume})["x"]
    back = resample_bspline(low[0].numpy(), Grid.of(low), Grid.of(volume))
    kept = lesion_kept(back, truth, lesions, white, SIZE, 35.0)
    by_size = {d: np.mean([r["contrast_percent"] for r in kept if r["diameter_mm"] == d]) for d in (2, 4, 6)}
    assert 10 < by_size[2] < by_size[4] < by_size[6] < 100


def test_bad_inputs_are_named():
    with pytest.raises(ValueError, match="must be above zero"):
        PlantLesionsd(count=0)
    volume = MetaTensor(torch.rand(1, 12, 12, 12), affine=torch.eye(4))
    with pytest.raises(ValueError, match="case 'a' is a real pair"):
        PlantLesionsd()({"case": "a", "label": volume, "image": volume})
    head = MetaTensor(
        torch.ones(1, 12, 12, 12) + torch.rand(1, 12, 12, 12), affine=torch.diag(torch.tensor([20.0] * 3 + [1]))
    )
    with pytest.raises(ValueError, match="more than a brain"):
        PlantLesionsd()({"case": "a", "label": head, "mask": torch.ones(1, 12, 12, 12)})


def test_no_place_is_said(caplog):
    assert place_lesions(np.zeros((9, 9, 9), bool), SIZE, (4,), count=2) == []
    assert "only 0 of 2 lesions of 4 mm" in caplog.text
