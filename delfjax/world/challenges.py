"""The challenges of the landmark world, each a knob from 0 to 1.

They stand in a module that imports nothing, so that the command line's help can list them at once.
"""

from __future__ import annotations

from collections.abc import Mapping

# What each knob turns from 0 (none) to 1 (as hard as photographs get).
KNOBS: Mapping[str, str] = {
    "scale": "spread of the distance: near and far views of the same landmark",
    "occlusion": "people, vehicles, trees and boughs before the landmark",
    "clutter": "houses and trees around it, more of the picture than the landmark itself",
    "likeness": "members of a family that look alike",
    "viewpoint": "spread of the direction a landmark is seen from",
    "tilt": "cameras not held level",
    "framing": "landmarks partly outside the picture",
    "weather": "clouds, haze, low sun and night",
    "film": "exposure, blur, noise and compression",
}
