from .api import SmoothedClassifier as SmoothedClassifier
from .certifiers import Certificate as Certificate
from .conformal import SetPredictor as SetPredictor
from .data import load_dataset as load_dataset
from .models import ImplicitClassifier as ImplicitClassifier
from .models import ImplicitModel as ImplicitModel
from .models import load_model as load_model
from .solvers import StopRule as StopRule
from .solvers import solve as solve

__version__: str
