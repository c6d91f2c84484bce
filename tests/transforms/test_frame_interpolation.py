"""Training samples of frame interpolation: the right frames at the right times, and noise as of two exposures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from custom_nets.apps.simulate_training_runs import simulate_run
from custom_nets.data.angiography.optical_flow import gap_flows_px
from custom_nets.metrics.gaps import GapPSNR, linear_blend
from custom_nets.transforms import FixedFrameGapd, LoadTrainingRund, RandFrameGapd, RandSimulatedGapd

TIMES = np.array([0.0, 0.5, 0.7, 1.5, 2.0, 2.25, 3.0])
AS_IT_IS = {"contrast": (1, 1), "background": (0.75, 0.75)}


def ramp_run() -> dict:
    """Frames whose value is their time, plus where a pixel is: each sample says what it was cut from."""
    place = np.arange(40 * 50).reshape(40, 50) * 1e-4
    return {"frames": (TIMES[:, None, None] + place).astype(np.float64), "times_s": TIMES}


def samples(transform, run, count=40):
    transform.set_random_state(0)
    return [transform(run) for _ in range(count)]


def test_times_and_frames_belong_together():
    for item in samples(
        RandFrameGapd(crop_size=16, longest_gap=5, num_targets=2, context_prob=0.6, **AS_IT_IS), ramp_run()
    ):
        start, end = (item[name].double() for name in ("frame0", "frame1"))
        seconds = (end - start).mean()
        # a ramp in time is its own linear blend: any mistake in times, order or crop would show
        blend = linear_blend(start[None], end[None], item["timesteps"][None].double())[0]
        torch.testing.assert_close(blend, item["label"].double(), atol=1e-5, rtol=0)
        for name, own, other in (("before", start, -1), ("after", end, 1)):
            distance = (item[name].double() - own).mean() * other
            near = float(item["nearness"][0 if name == "before" else 1])
            if near == 0:
                assert float(distance.abs()) < 1e-6  # there is none: the pair's own frame stands in
            else:
                assert near == pytest.approx(float(seconds / distance), rel=1e-3)


def test_the_motion_is_that_of_the_frames_that_are_given():
    run = {"frames": np.random.default_rng(0).random((6, 96, 96)).astype(np.float32), "times_s": np.arange(6.0)}
    options = {"crop_size": 32, "longest_gap": 2, "num_targets": 1, "context_prob": 0.5, **AS_IT_IS}
    for item in samples(RandFrameGapd(**options, flow_prob=1.0, flow_margin=0), run, 6):
        frames = [item[name][0].numpy() for name in ("frame0", "frame1", "before", "after")]
        there = [f if near else None for f, near in zip(frames[2:], item["nearness"], strict=True)]
        np.testing.assert_array_equal(item["flow_px"].numpy(), gap_flows_px(*frames[:2], *there))
    wide = samples(RandFrameGapd(**options, flow_prob=0.5, flow_margin=16), run, 12)
    assert {item["flow_px"].any().item() for item in wide} == {True, False}
    assert all(item["flow_px"].shape == (8, 32, 32) and item["frame0"].shape == (1, 32, 32) for item in wide)
    assert "flow_px" not in samples(RandFrameGapd(**options), run, 1)[0]


def test_the_turn_is_seen_as_the_picture_is():
    """A bright pixel that moves as the turn says, in each of the eight ways to look at it."""

    class Arm:
        def turn(self, first, last):
            return np.array([3 * (last - first), -5 * (last - first), 1], np.float32)

    frames = np.zeros((5, 48, 48), np.float32)
    for k in range(5):
        frames[k, 34 - 5 * k, 16 + 3 * k] = 1
    run = {"frames": frames, "times_s": np.arange(5.0), "geometry": Arm()}
    options = {"crop_size": 48, "longest_gap": 3, "num_targets": 1, **AS_IT_IS}
    seen = set()
    for item in samples(RandFrameGapd(**options, angle_prob=1.0), run, 60):
        start, end = (np.argwhere(item[name][0].numpy() > 0.9)[0] for name in ("frame0", "frame1"))
        assert item["turn"].tolist() == [*(end - start)[::-1], 1]
        x, y, _ = item["turn"].tolist()
        seen.add((x > 0, y > 0, abs(x) > abs(y)))
    assert len(seen) == 8
    some = [item["turn"].any().item() for item in samples(RandFrameGapd(**options, angle_prob=0.5), run)]
    assert 8 < sum(some) < 32
    plain, told = (samples(RandFrameGapd(**options, angle_prob=p), run, 1)[0] for p in (None, 1.0))
    assert "turn" not in plain and torch.equal(plain["frame0"], told["frame0"]), "the same sample"
    assert not samples(RandFrameGapd(crop_size=16, angle_prob=1.0), ramp_run(), 1)[0]["turn"].any(), "nothing is known"


def test_all_kinds_of_gaps_occur():
    found = samples(
        RandFrameGapd(crop_size=16, longest_gap=5, num_targets=1, context_prob=0.5, **AS_IT_IS), ramp_run(), 200
    )
    seconds = {round(float((s["frame1"] - s["frame0"]).mean()), 2) for s in found}
    assert len(seconds) > 8 and {(s["nearness"][0] > 0).item() for s in found} == {True, False}
    fixed = RandFrameGapd(crop_size=16, shortest_gap=3, longest_gap=3, num_targets=2, context_prob=0, **AS_IT_IS)
    for item in samples(fixed, ramp_run()):
        assert item["timesteps"][0] < item["timesteps"][1] and not item["nearness"].any()


def test_small_frames_are_extended_and_short_runs_refused():
    run = ramp_run()
    item = samples(RandFrameGapd(crop_size=64, longest_gap=3, num_targets=1), run, 1)[0]
    assert item["frame0"].shape == (1, 64, 64)
    with pytest.raises(ValueError, match="3 frames or more"):
        RandFrameGapd(crop_size=16)({"frames": run["frames"][:2], "times_s": TIMES[:2], "image": "x"})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"crop_size": 20}, "multiple of 16"),
        ({"longest_gap": 1}, "shortest_gap <= longest_gap"),
        ({"num_targets": 0}, "num_targets"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        RandFrameGapd(**{"crop_size": 32, **options})


# ---- simulated runs ----


def flat_run(kind: str) -> dict:
    """Nothing in the picture: all there is, is noise."""
    flat = np.zeros((9, 96, 96), dtype=np.float16)
    return {
        "frames": flat, "times_s": np.arange(9) / 8, "background": np.zeros((96, 96), np.float32),
        "darkest": 1.0, "kind": kind,
    }  # fmt: skip


def test_truth_keeps_the_masks_noise_and_lacks_its_own():
    transform = RandSimulatedGapd(crop_size=96, longest_gap=4, num_targets=1, context_prob=1, noise=(0.01, 0.01))
    ratios = []
    for item in samples(transform, flat_run("fixed"), 60):
        own = (item["frame1"] - item["frame0"]).std() / 2**0.5  # what the frames do not share
        assert float(own) == pytest.approx(0.01, rel=0.1)
        shared = (item["frame0"] - item["label"][0]).std()  # what the truth lacks
        assert float(shared) == pytest.approx(0.01, rel=0.1)
        ratios.append(float(item["label"].std()) / 0.01)
    assert np.median(ratios) == pytest.approx(1, abs=0.1)  # mostly one exposure


def test_frames_of_a_turning_run_share_no_noise():
    for item in samples(RandSimulatedGapd(crop_size=96, longest_gap=4, num_targets=1), flat_run("rotational"), 10):
        assert float(item["label"].std()) < 1e-6


def test_a_simulated_run_on_disk(tmp_path):
    path = simulate_run(tmp_path, 3, "fixed", (64, 64), 5)
    assert simulate_run(tmp_path, 3, "fixed", (64, 64), 5) == path  # kept
    run = LoadTrainingRund("image")({"image": str(path)})
    assert run["frames"].shape == (5, 64, 64) and run["kind"] == "fixed" and run["darkest"] >= 0.05
    assert np.median(run["background"]) == pytest.approx(0, abs=1e-5)
    again = {**run, "number": 1}
    fixed = FixedFrameGapd(crop_size=32, longest_gap=3, num_targets=1, seed=5)
    first, second, other = fixed(again), fixed(again), fixed({**again, "number": 2})
    assert torch.equal(first["label"], second["label"]) and not torch.equal(first["label"], other["label"])


def test_a_measured_run_in_network_units(tmp_path):
    frames = np.random.default_rng(0).integers(400, 900, (4, 20, 24)).astype(np.uint16)
    np.savez(tmp_path / "run.npz", frames=frames, times_s=[0, 0.3, 0.5, 1.0])
    run = LoadTrainingRund("image")({"image": str(tmp_path / "run.npz")})
    assert run["frames"].dtype == np.float16 and run["times_s"].tolist() == [0, 0.3, 0.5, 1.0]
    assert not run["geometry"].turn(0, 3).any()
    assert 0.0 <= float(run["frames"].min()) < float(run["frames"].max()) <= 1.1


# ---- the metric ----


def test_psnr_and_gain_have_known_values():
    label = torch.rand(2, 3, 1, 8, 8)
    metric, gain = GapPSNR(), GapPSNR(gain=True)
    for m in (metric, gain):
        m.update((label + 0.1, label, label + 0.01))
    assert metric.compute() == pytest.approx(20, abs=1e-3)
    assert gain.compute() == pytest.approx(20 - 40, abs=1e-2)


def test_arguments_of_version_0_1_are_taken_with_a_warning() -> None:
    with pytest.warns(FutureWarning, match="busy is now change_crop_prob"):
        transform = RandSimulatedGapd(crop_size=32, busy=0.25)
    assert transform.change_crop_prob == 0.25
