"""Distilling a checkpoint into a manifold: the fit and its losses."""

from neumeta_cli.distill.fit import FitResult, Fitter, fit_manifold
from neumeta_cli.distill.job import distill_checkpoint

__all__ = ["FitResult", "Fitter", "distill_checkpoint", "fit_manifold"]
