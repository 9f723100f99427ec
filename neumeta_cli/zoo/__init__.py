"""The paper's networks that neither timm nor torchvision ships."""

from neumeta_cli.zoo.table import ZOO, Entry

__all__ = ["ZOO", "Entry"]
