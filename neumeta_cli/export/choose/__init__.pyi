from .budget import Budget as Budget
from .search import Searched as Searched, search_widths as search_widths
from .wish import Choice as Choice, Wish as Wish
