from deqcert.attacks.base import Attack as Attack
from deqcert.attacks.base import Climb as Climb
from deqcert.attacks.base import Task as Task
from deqcert.attacks.base import View as View
from deqcert.attacks.registry import ATTACKS as ATTACKS
from deqcert.attacks.registry import attack_names as attack_names
from deqcert.attacks.registry import get_attack as get_attack
from deqcert.attacks.target import Target as Target
