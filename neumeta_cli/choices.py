"""Choices and defaults that both the command line names and later stages act on; needs no torch."""

from typing import Literal

Norm = Literal["l1", "l2"]
"""Of the difference of two channels within a weight."""

Weighting = Literal["none", "equal", "producer"]
"""What each weight counts in the distance of two channels."""

NUMBER_FORMATS = ("float32", "float16", "bfloat16")  # of exported networks
SEARCH_SAMPLES = 300  # networks that a search for each clique's width scores
FAMILY_INDEX = "index.json"
