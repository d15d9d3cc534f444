"""What the notebooks share: settings, data, trained stages, run folders, the runner and the report.

``__init__.pyi`` lists the names that notebooks import from here; each is loaded on first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
