from .compare import chosen_methods as chosen_methods, compare_methods as compare_methods
from .results import Comparison as Comparison, read_run as read_run
