from .definite import is_semidefinite as is_semidefinite
from .enclosure import Enclosure as Enclosure
from .lipschitz import RULES as RULES
from .lipschitz import pairwise_bounds as pairwise_bounds
from .margins import Margins as Margins
from .margins import margins_of as margins_of
from .multiplier import multiplier_bound as multiplier_bound
from .multiplier import verified_bound as verified_bound
