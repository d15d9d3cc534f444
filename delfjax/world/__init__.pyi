from .census import Census as Census
from .challenges import KNOBS as KNOBS
from .reading import correspondences as correspondences
from .reading import open_world as open_world
from .rendering import render as render
from .rendering import render_truth as render_truth
