from .formats import (
    FORMATS as FORMATS,
    NOTHING_TO_READ as NOTHING_TO_READ,
    find_images as find_images,
    require_root as require_root,
)
from .images import Images as Images
from .settings import DataSection as DataSection
