from .config import LatentConfig as LatentConfig
from .fit import fit_latent as fit_latent
