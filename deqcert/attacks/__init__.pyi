from .base import Attack as Attack
from .base import Climb as Climb
from .base import Task as Task
from .base import View as View
from .registry import ATTACKS as ATTACKS
from .registry import get_attack as get_attack
from .target import Target as Target
