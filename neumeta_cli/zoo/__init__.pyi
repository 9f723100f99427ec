from .table import ZOO as ZOO, Entry as Entry
