"""The challenges of the landmark world, each a knob from 0 to 1.

They stand in a module that imports nothing, so that the command line's help can list them at once.
"""

from __future__ import annotations

from collections.abc import Mapping

# Each from 0 (absent) to 1 (as hard as photographs get), and what it varies.
KNOBS: Mapping[str, str] = {
    "scale": "spread of the distance: near and far views of one landmark",
    "occlusion": "people, vehicles, trees and boughs in front of the landmark",
    "clutter": "houses and trees around the landmark, filling more of the picture than it does",
    "likeness": "how alike the landmarks of a family look",
    "viewpoint": "spread of the direction from which a landmark is seen",
    "tilt": "cameras not held level",
    "framing": "landmarks partly outside the picture",
    "weather": "clouds, haze, low sun and night",
    "film": "exposure, blur, noise and compression",
}
