from .dataset_loop import extract_dataset as extract_dataset
from .export import export_system as export_system
from .extractor import Extractor as Extractor
from .extractor import load_extractor as load_extractor
from .reduction import fit_from_store as fit_from_store
from .reduction import reduction_for as reduction_for
from .shared_pass import SharedPass as SharedPass
from .store import FeatureStore as FeatureStore
