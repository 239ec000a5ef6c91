from .radius import LatentRadius as LatentRadius
from .radius import Reach as Reach
from .radius import published_radius as published_radius
