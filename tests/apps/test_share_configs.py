"""The configs that bundles share are the same in all of them."""

from __future__ import annotations

from custom_nets.apps.share_configs import copies


def test_every_bundle_has_the_shared_configs():
    found = copies()
    assert len(found) >= 12
    different = [str(path) for path, text in found.items() if not path.is_file() or path.read_text() != text]
    assert not different, f"run python -m custom_nets.apps.share_configs: {different}"
