from .norms import QuickNorms as QuickNorms
from .padding import Padding as Padding
