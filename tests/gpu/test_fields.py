"""The 4D fields on the GPU see what they see on the CPU, and fits come to the same volume."""

from __future__ import annotations

import pytest
import torch

from custom_nets.engines import ScanFitting
from custom_nets.networks import BolusAtoms
from custom_nets.simulation.phantom import PhantomSettings, VesselFlowPhantom
from tests.gpu.conftest import close
from tests.networks.test_attenuation_fields import FIELDS, GRID, TIMES, VECTORS, VOXELS, bound


@pytest.mark.parametrize("name", FIELDS)
def test_fields(name, device):
    wanted = bound(name)
    found = FIELDS[name]()
    found.bind(GRID, VOXELS.to(device), torch.full((len(VOXELS),), 0.01, device=device), seed=1)
    found.load_state_dict(wanted.state_dict())
    seen = {}
    for field, where in ((wanted, "cpu"), (found, device)):
        seen[where] = field(VECTORS, TIMES.to(where))
        (seen[where].square().sum() + field.regularization()).backward()
    assert seen[device].device.type == device.type
    close(seen[device], seen["cpu"], 1e-4)
    for here, there in zip(wanted.parameters(), found.parameters(), strict=True):
        close(there.grad, here.grad, 1e-3)


def test_a_fit(device):
    settings = PhantomSettings(frames=12, size=(32, 32), pixel_mm=4.4, volume_shape=(24, 24, 24), voxel_mm=3.4)
    scan = VesselFlowPhantom(1, settings).acquisition()
    curves = []
    for where in (torch.device("cpu"), device):
        field = BolusAtoms(num_atoms=6, injection_s=2.0)
        ScanFitting(20, optimizer="fista", progress=False).fit(field, scan, where)
        curves.append(field.volume(2.0))
    close(curves[1], curves[0], 2e-2)
