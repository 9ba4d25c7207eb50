"""Models found, loaded, converted, cut and saved."""

from avss_utils.models.load import LoadedModel, load_model, positions_of, short_name
from avss_utils.models.plan import PruningPlan

__all__ = ["LoadedModel", "PruningPlan", "load_model", "positions_of", "short_name"]
