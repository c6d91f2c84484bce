"""Frames between frames: which times, never where nothing may be made, and the same in any number of batches."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn
from torch.nn import functional as F

from custom_nets.data.angiography.intensity import MaskSubtraction
from custom_nets.data.angiography.optical_flow import dis_flow_px, gap_flows_px
from custom_nets.data.angiography.run import AngiographyRun, RunGeometry, RunOrigin, make_run
from custom_nets.inferers import frames as frames_module
from custom_nets.inferers.frames import FrameInterpolationInferer, plan_times
from custom_nets.networks import MoStDSA, SymmetricMoStDSA
from custom_nets.networks.symmetric_most_dsa import warp
from tests.tools.xa_writer import contrast_run

UNEVEN = [0, 0.25, 0.5, 1.0, 1.5, 2.5]


class Blend(nn.Module):
    """The linear blend; remembers how it was called."""

    def __init__(self, blur: int = 1, takes_context: bool = False) -> None:
        super().__init__()
        self.blur, self.takes_context = blur, takes_context
        self.calls: list[dict[str, Any]] = []

    def forward(self, frame0, frame1, timesteps, **context):
        self.calls.append({"frame0": frame0, "timesteps": timesteps, **context})
        t = timesteps[:, :, None, None, None]
        pred = torch.lerp(frame0[:, None], frame1[:, None], t)
        if self.blur > 1:
            pred = F.avg_pool2d(pred.flatten(0, 1), self.blur, 1, self.blur // 2).reshape(pred.shape)
        return pred


@pytest.fixture(scope="module")
def symmetric() -> SymmetricMoStDSA:
    torch.manual_seed(0)
    network = SymmetricMoStDSA([4, 4, 4, 4], 4, 4).eval()
    for head in (network.preference, network.output):
        nn.init.normal_(head.weight, std=0.2)
    return network


def a_run(times=UNEVEN, frames=None, **more) -> AngiographyRun:
    return make_run(contrast_run() if frames is None else frames, times, **more)


def planned(run: AngiographyRun, **request) -> list[float]:
    return [t for plan in plan_times(run, **request) for t in plan.times_s]


# ---- which times ----


@pytest.mark.parametrize("count", [1, 2, 3, 7, 15])
def test_even_times_in_every_gap(count):
    plans = plan_times(a_run(), frames_between=count)
    assert [plan.gap.index for plan in plans] == list(range(5))
    for plan, (t0, t1) in zip(plans, zip(UNEVEN[:-1], UNEVEN[1:], strict=True), strict=True):
        np.testing.assert_allclose(plan.times_s, np.linspace(t0, t1, count + 2)[1:-1])
        np.testing.assert_allclose(plan.timesteps, np.linspace(0, 1, count + 2)[1:-1])


def test_a_rate_gives_true_times_in_uneven_gaps():
    wanted = [k / 15 for k in range(38) if np.abs(np.array(UNEVEN) - k / 15).min() > 1e-9]
    np.testing.assert_allclose(planned(a_run(), fps=15), wanted)
    plan = plan_times(a_run(), fps=15)[0]
    np.testing.assert_allclose(plan.timesteps, np.array([1, 2, 3]) / 15 / 0.25)


def test_measured_frames_on_the_grid_are_not_made_again():
    np.testing.assert_allclose(planned(a_run(), fps=4), [0.75, 1.25, 1.75, 2.0, 2.25])
    thirds = a_run(np.arange(6) / 3)  # 1/3 has no end in binary
    np.testing.assert_allclose(planned(thirds, fps=6), (np.arange(5) + 0.5) / 3)
    rounded = a_run(np.round(np.arange(6) / 7.5, 3))  # a header that rounds to ms
    np.testing.assert_allclose(planned(rounded, fps=15), (2 * np.arange(5) + 1) / 15)


def test_times_as_asked():
    assert planned(a_run(), times_s=[2.25, 0.1, 1.1, 0.1]) == [0.1, 1.1, 2.25]
    assert planned(a_run(), times_s=[0.3]) == [0.3]
    # measured ones among them are there already; what is near one is made
    assert planned(a_run(), times_s=[0.0, 0.251, 0.5, 2.5]) == [0.251]
    with pytest.raises(ValueError, match="nothing to make"):
        plan_times(a_run(), times_s=[0.25, 1.50003])


@pytest.mark.parametrize(
    "mask, gaps", [([0], [1, 2, 3, 4]), ([0, 1], [2, 3, 4]), ([2], [0, 3, 4]), ([5], [0, 1, 2, 3])]
)
@pytest.mark.parametrize("request_", [{"frames_between": 1}, {"fps": 20}])
def test_nothing_is_made_beside_a_mask_frame(mask, gaps, request_):
    plans = plan_times(a_run(mask_frames=mask), **request_)
    assert [plan.gap.index for plan in plans] == gaps
    for plan in plans:
        assert all(plan.gap.t0_s < t < plan.gap.t1_s for t in plan.times_s)
        assert not {plan.before, plan.after} & set(mask)


def test_the_grid_starts_at_the_first_frame_with_contrast():
    run = a_run([-0.9, 0, 1, 2, 3, 4], mask_frames=[0])
    np.testing.assert_allclose(planned(run, fps=2), [0.5, 1.5, 2.5, 3.5])


def test_frames_beyond_the_pair():
    plans = plan_times(a_run(mask_frames=[0]), frames_between=1)
    assert [(p.before, p.gap.index, p.after) for p in plans] == [(None, 1, 3), (1, 2, 4), (2, 3, 5), (3, 4, None)]


def test_made_frames_are_no_source():
    longer = a_run().with_inserted([0.3], a_run().frames[:1])
    np.testing.assert_array_equal(longer.synthetic, [0, 0, 1, 0, 0, 0, 0])
    plans = plan_times(longer, frames_between=1)
    assert [(p.before, p.gap.index, p.after) for p in plans] == [(None, 0, None), (None, 3, 5), (3, 4, 6), (4, 5, None)]


@pytest.mark.parametrize(
    "request_, message",
    [
        ({}, "exactly one of --frames_between K, --fps R and --times_s .* got none"),
        ({"fps": 4, "frames_between": 1}, "got frames_between = 1, fps = 4"),
        ({"frames_between": 0}, "frames_between must be a whole number from 1 to 1000, got 0"),
        ({"frames_between": -2}, "got -2"),
        ({"frames_between": 1.5}, "got 1.5"),
        ({"frames_between": True}, "got True"),
        ({"frames_between": "3"}, "got '3'"),
        ({"fps": 0}, "fps must be a number above 0, at most 1000, got 0"),
        ({"fps": float("nan")}, "got nan"),
        ({"fps": "fast"}, "got 'fast'"),
        ({"times_s": []}, "times_s must be a list of seconds"),
        ({"times_s": "soon"}, "got 'soon'"),
        ({"times_s": [0.5, float("inf")]}, "list of seconds"),
        ({"times_s": [2.6]}, "beyond the run .0 to 2.5 s.: nothing is extrapolated"),
        ({"times_s": [-0.1, 0.3]}, "nothing is extrapolated"),
        ({"fps": 0.4}, "nothing to make"),
    ],
)
def test_requests_that_make_no_sense(request_, message):
    with pytest.raises(ValueError, match=message):
        plan_times(a_run(), **request_)


def test_times_beside_a_mask_frame_are_refused():
    with pytest.raises(ValueError, match=r"times \[0.2\] s lie beside a mask frame"):
        plan_times(a_run(mask_frames=[0]), times_s=[0.2, 0.3])
    with pytest.raises(ValueError, match="no two neighbouring measured frames"):
        plan_times(a_run(UNEVEN[:2], contrast_run(2), mask_frames=[0]), frames_between=1)


def test_frames_without_times_are_filled_by_number_only():
    run = a_run(None)
    assert planned(run, frames_between=1) == [0.5, 1.5, 2.5, 3.5, 4.5]
    for request in ({"fps": 10}, {"times_s": [0.5]}):
        with pytest.raises(ValueError, match="--input_fps"):
            plan_times(run, **request)


def test_warnings(caplog):
    plans = plan_times(a_run(), frames_between=1, max_gap_s=0.7)
    assert [bool(plan.gap.warnings) for plan in plans] == [False] * 4 + [True]
    with caplog.at_level(logging.WARNING):
        FrameInterpolationInferer(frames_between=1, max_gap_s=0.7)(a_run(), Blend())
        assert "1.00 s between frames 5 and 6, more than 0.7 s" in caplog.text
        plan_times(a_run(), fps=1.6)
        assert "below the 2 frames per second of the run" in caplog.text


# ---- filling ----


@pytest.mark.parametrize("dtype, bits", [(np.uint8, 8), (np.uint16, 16), (np.int16, 12), (np.float32, 10)])
@pytest.mark.parametrize("request_", [{"frames_between": 3}, {"fps": 15}, {"times_s": [0.1, 0.9, 2.2]}])
def test_measured_frames_stay_and_made_ones_are_the_networks(dtype, bits, request_):
    stored = contrast_run(dtype=np.int16 if dtype == np.int16 else np.uint16, bits=bits).astype(dtype)
    run = a_run(frames=stored)
    result = FrameInterpolationInferer(**request_)(run, Blend())
    wanted = planned(run, **request_)
    assert result.frames.dtype == dtype and len(result) == 6 + len(wanted)
    np.testing.assert_array_equal(result.frames[~result.synthetic], run.frames)
    np.testing.assert_array_equal(result.times_s[~result.synthetic], run.times_s)
    np.testing.assert_allclose(result.times_s[result.synthetic], wanted)
    # a linear map, so the blend of units is the blend of stored values, in all their bits
    places = run.position_of(wanted)
    below = np.floor(places).astype(int)
    share = (places - below)[:, None, None]
    blend = (1 - share) * stored[below].astype(float) + share * stored[below + 1]
    atol = 0.51 + 1e-4 * np.ptp(stored) if dtype != np.float32 else 1e-3 * np.ptp(stored)
    np.testing.assert_allclose(result.frames[result.synthetic].astype(float), blend, atol=atol)


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 40])
def test_batches_do_not_change_the_result(batch, symmetric):
    """Gaps with different numbers of times, cut and joined in many ways."""
    run = a_run()
    whole = FrameInterpolationInferer(fps=9, frames_per_batch=1000)(run, symmetric)
    parts = FrameInterpolationInferer(fps=9, frames_per_batch=batch)(run, symmetric)
    np.testing.assert_array_equal(parts.times_s, whole.times_s)
    # one rounding of the stored values
    assert np.abs(parts.frames.astype(int) - whole.frames.astype(int)).max() <= 1
    blend = FrameInterpolationInferer(fps=9)(run, Blend())
    assert np.abs(blend.frames.astype(int) - whole.frames.astype(int)).max() > 20, "the network does something"


def test_batches_are_as_large_as_asked():
    network = Blend()
    FrameInterpolationInferer(frames_between=2, frames_per_batch=4)(a_run(), network)
    assert [tuple(call["timesteps"].shape) for call in network.calls] == [(2, 2), (2, 2), (1, 2)]
    network = Blend()
    FrameInterpolationInferer(frames_between=5, frames_per_batch=4)(a_run(), network)
    assert max(call["timesteps"].numel() for call in network.calls) <= 4
    assert sum(call["timesteps"].numel() for call in network.calls) == 25


def test_context_goes_to_networks_that_take_it():
    run = a_run(mask_frames=[0])
    for network, context in ((Blend(), True), (Blend(takes_context=True), False)):
        FrameInterpolationInferer(context=context)(run, network)
        assert all(set(call) == {"frame0", "timesteps"} for call in network.calls)
    network = Blend(takes_context=True)
    FrameInterpolationInferer(frames_per_batch=10)(run, network)
    (call,) = network.calls
    units = torch.from_numpy(run.normalize(slice(None)))[:, None]
    assert torch.equal(call["frame0"], units[1:5])
    # frame 1 stands in where there is only the mask before it, frame 5 after itself
    assert torch.equal(call["before"], units[[1, 1, 2, 3]]) and torch.equal(call["after"], units[[3, 4, 5, 5]])
    nearness = [[0, 0.25 / 0.5], [0.5 / 0.25, 0.5 / 0.5], [0.5 / 0.5, 0.5 / 1.0], [1.0 / 0.5, 0]]
    torch.testing.assert_close(call["nearness"], torch.tensor(nearness))


@pytest.mark.parametrize("batch", [1, 2, 10])
def test_motion_goes_to_networks_that_take_it(batch, monkeypatch):
    """The flows of each gap in their order, each found once though three gaps look at it."""
    calls = []

    def search(source, target):
        calls.append((source, target))
        return dis_flow_px(source, target)

    monkeypatch.setattr(frames_module, "dis_flow_px", search)
    run, network = a_run(), Blend(takes_context=True)
    network.takes_flow = True
    FrameInterpolationInferer(frames_per_batch=batch, flow=True)(run, network)
    given = torch.cat([call["flow_px"] for call in network.calls]).numpy()
    units = [*run.normalize(slice(None)), None]
    for k in range(5):
        wanted = gap_flows_px(units[k], units[k + 1], units[k - 1], units[k + 2])
        np.testing.assert_array_equal(given[k], wanted)
    assert len(calls) == 10
    network.calls.clear()
    FrameInterpolationInferer(context=False, flow=True)(run, network)
    assert not any(call["flow_px"][:, 4:].any() for call in network.calls), "nothing of frames that may not be seen"


class Follow(Blend):
    """The blend of both frames where their flow has brought them, if there is one."""

    takes_flow = True

    def forward(self, frame0, frame1, timesteps, flow_px=None, **context):
        if flow_px is None:
            return super().forward(frame0, frame1, timesteps, **context)
        self.calls.append({"flow_px": flow_px})
        made = []
        for t in timesteps.T:
            share = t[:, None, None, None]
            sides = [warp(frame0, flow_px[:, :2], -share), warp(frame1, flow_px[:, 2:4], share - 1)]
            made.append(torch.lerp(*sides, share))
        return torch.stack(made, dim=1)


def test_flow_is_for_runs_that_it_helps():
    """A motion that goes on from frame to frame, not contrast that comes; a C-arm that stands says so."""
    texture = gaussian_filter(np.random.default_rng(0).standard_normal((64, 96)), 2)
    texture = (128 + 60 * texture / np.abs(texture).max()).astype(np.uint8)
    turning = make_run(np.stack([np.roll(texture, 3 * k, axis=1) for k in range(7)]), np.arange(7.0))
    arriving = make_run(texture // 2 + 8 * np.arange(7, dtype=np.uint8)[:, None, None], np.arange(7.0))
    for run, wanted in ((turning, True), (arriving, False)):
        inferer, network = FrameInterpolationInferer(), Follow()
        assert inferer.flow_helps(run, network) is wanted
        network.calls.clear()
        inferer(run, network)
        assert inferer.flow_used is wanted
        assert all(("flow_px" in call) is wanted for call in network.calls[-2:])
    for degrees, wanted in ((1.4, True), (0.0, False)):
        angles = RunGeometry(primary_deg=degrees * np.arange(7), secondary_deg=np.zeros(7))
        run = make_run(turning.frames, turning.times_s, geometry=angles)
        assert FrameInterpolationInferer().flow_helps(run, Follow()) is wanted
        assert FrameInterpolationInferer().flow_helps(run.select([0, 1]), Follow()) is wanted
    assert not FrameInterpolationInferer().flow_helps(turning.select([0, 1]), Follow()), "two frames do not tell"
    assert not FrameInterpolationInferer().flow_helps(turning, Blend()), "a network that makes nothing of it"


@pytest.mark.parametrize("batch", [1, 10])
def test_the_turn_goes_to_networks_that_take_it(batch):
    angles = RunGeometry((0.3, 0.3), np.array([0, 1, 3, 3, 2, -1.0]), np.zeros(6))
    run, plain = a_run(geometry=angles, mask_frames=[0]), Blend()
    told = Blend()
    told.takes_angles = True
    inferer = FrameInterpolationInferer(frames_per_batch=batch)
    for network in (plain, told):
        inferer(run, network)
    given = torch.cat([call["turn"] for call in told.calls])
    assert given[:, 2].tolist() == [1] * 4 and np.sign(given[:, 0]).tolist() == [1, 0, -1, -1]
    np.testing.assert_array_equal(given.numpy(), [angles.turn(k, k + 1) for k in range(1, 5)])
    assert not any("turn" in call for call in plain.calls)
    assert inferer.uses_angles(run, told) and not inferer.uses_angles(run, plain)
    assert not inferer.uses_angles(a_run(), told), "the run does not say them"
    told.calls.clear()
    FrameInterpolationInferer(angles=False)(run, told)
    assert not any("turn" in call for call in told.calls)


def letterbox(value: int = 30) -> np.ndarray:
    frames = contrast_run()
    frames[:, :7], frames[:, -5:], frames[:, :, :9] = value, value, value
    return frames


def test_crop_changes_nothing_inside():
    run = a_run(frames=letterbox())
    assert run.active.sum() == 28 * 39
    network = Blend(blur=3)
    whole = FrameInterpolationInferer(frames_between=2, crop=False)(run, network)
    assert network.calls[-1]["frame0"].shape[-2:] == (40, 48)
    cropped = FrameInterpolationInferer(frames_between=2, crop=True)(run, network)
    assert network.calls[-1]["frame0"].shape[-2:] == (28, 39)
    inside = np.s_[:, 8:-6, 10:-1]  # the network sees one pixel far
    assert np.abs(whole.frames[inside].astype(int) - cropped.frames[inside].astype(int)).max() <= 1
    for result in (whole, cropped):
        assert (result.frames[:, ~run.active] == 30).all(), "a still border stays as it is, to the last bit"
        assert (result.frames[result.synthetic][:, run.active] != 30).mean() > 0.99


def test_a_border_that_changes_is_left_to_the_network():
    frames = letterbox()
    shutter = {"shapes": ["RECTANGULAR"], "rectangle": (10, 48, 8, 35)}
    frames[3:, :7] = 700  # behind the shutter, but not still
    run = make_run(frames, UNEVEN, origin=RunOrigin(shutter=shutter))
    result = FrameInterpolationInferer(frames_between=1)(run, Blend())
    assert (result.frames[5, :7] == 365).all()
    assert (result.frames[1, :7] == 30).all()


def test_published_network_of_three_channels():
    torch.manual_seed(0)
    network = MoStDSA(
        num_features=4, num_blocks=2, num_heads=2, key_dim=4, window=5, motion_dim=8, mlp_ratio=2, head_width=8,
        refiner_width=4,
    ).eval()  # fmt: skip
    run = a_run(frames=contrast_run(3), times=[0, 1, 3])
    result = FrameInterpolationInferer(frames_between=2, frames_per_batch=3)(run, network)
    np.testing.assert_array_equal(result.frames[[0, 3, 6]], run.frames)
    units = torch.from_numpy(run.normalize([0, 1]))[:, None].expand(-1, 3, -1, -1)
    with torch.no_grad():
        wanted = network(units[:1], units[1:], [1 / 3, 2 / 3]).mean(2)[0].numpy()
    np.testing.assert_array_equal(result.frames[1:3], run.denormalize(wanted, [1 / 3, 2 / 3]))


def test_made_frames_of_a_raw_run_are_raw_frames():
    """The mask is subtracted in the logarithm and added back: the blend is the geometric mean of the intensities."""
    frames = contrast_run(bits=16)
    run = a_run(frames=frames, subtraction=[MaskSubtraction(mask_frames=(0,), first=1)], log=True)
    result = FrameInterpolationInferer(frames_between=1)(run, Blend())
    np.testing.assert_array_equal(result.synthetic, [0, 0, 1, 0, 1, 0, 1, 0, 1, 0])
    wanted = np.sqrt(frames[1:-1].astype(float) * frames[2:])
    np.testing.assert_allclose(result.frames[result.synthetic], wanted, rtol=1e-3)
    assert result.mask_frames == (0,)


def test_a_network_that_fails_is_not_written_down():
    class Broken(Blend):
        def forward(self, *arguments, **more):
            return super().forward(*arguments, **more) * float("nan")

    with pytest.raises(ValueError, match="made frame at position 0.500 has NaN"):
        FrameInterpolationInferer()(a_run(), Broken())


def test_half_precision(symmetric):
    exact = FrameInterpolationInferer(frames_between=1)(a_run(), symmetric)
    half = FrameInterpolationInferer(frames_between=1, precision="bfloat16")(a_run(), symmetric)
    np.testing.assert_array_equal(half.frames[~half.synthetic], exact.frames[~exact.synthetic])
    error = np.abs(half.frames.astype(float) - exact.frames) / np.ptp(exact.frames)
    assert 0 < error.max() < 0.1


def test_compiled_network_is_used(monkeypatch, symmetric):
    asked = []
    monkeypatch.setattr(frames_module.torch, "compile", lambda network, **options: asked.append(options) or network)
    compiled = FrameInterpolationInferer(compile=True)(a_run(), symmetric)
    assert len(asked) == 1
    np.testing.assert_array_equal(compiled.frames, FrameInterpolationInferer()(a_run(), symmetric).frames)
    assert len(asked) == 1


@pytest.mark.parametrize(
    "options, message",
    [
        ({"precision": "half"}, "precision must be 'float32' or 'bfloat16', got 'half'"),
        ({"frames_per_batch": 0}, "frames_per_batch must be a whole number, 1 or more, got 0"),
        ({"frames_per_batch": True}, "got True"),
        ({"frames_between": -1}, "frames_between must be"),
        ({"fps": 3, "times_s": [1]}, "exactly one of"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        FrameInterpolationInferer(**options)
