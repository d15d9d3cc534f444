from . import plots as plots
from .config import DelfConfig as DelfConfig
from .config import override as override
from .config import preset as preset
from .datasets.catalogue import open_dataset as open_dataset
from .datasets.images import decode_image as decode_image
from .pipeline.photos import build_index as build_index
from .pipeline.photos import evaluate as evaluate
from .pipeline.photos import extract_folder as extract_folder
from .pipeline.photos import extract_photo as extract_photo
from .pipeline.photos import match as match
from .pipeline.photos import open_store as open_store
from .pipeline.photos import search as search
from .retrieval.system_index import open_index as open_index

__version__: str
