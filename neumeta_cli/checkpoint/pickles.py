"""Unpickling files of PyTorch without running code of theirs, and saying why one cannot be read."""

import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from neumeta_cli.checkpoint.integrity import check_archive, check_records, first_line
from neumeta_cli.errors import NeumetaError

# How to save what people often put beside the weights, by the ending of its name in a pickle.
INSTEAD = {
    "multiarray.scalar": "a numpy number: save float(x)",
    "multiarray._reconstruct": "a numpy array: save torch.from_numpy(x)",
    "argparse.Namespace": "save vars(args)",
    "PosixPath": "save str(path)",
    "WindowsPath": "save str(path)",
    "defaultdict": "save dict(x)",
}
MOST_NAMED = 4  # classes that a message lists
PROGRAMS = {  # entries that tell what a zip archive is, if it is no state dict
    "constants.pkl": "TorchScript",
    "archive_format": "a program of torch.export (.pt2)",
}


def read_pickle(path: Path) -> Any:
    """What ``torch.save`` put into a file, of plain types and tensors only.

    Raises:
        NeumetaError: the file is damaged, is a program, or carries code or objects of other
            classes; these are named.

    """
    check_archive(path)
    _refuse_program(path)
    check_records(path)
    try:
        with warnings.catch_warnings(action="ignore"):  # of rare tensors, which are refused later
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "GLOBAL" in str(error) or "Unsupported" in str(error):
            raise NeumetaError(
                f"{path} carries pickled Python code{_named(path, str(error))}, which is never "
                "run; save model.state_dict() alone, or convert the file to .safetensors"
            ) from error
        raise NeumetaError(f"cannot read {path}: not a PyTorch weights file") from error
    except Exception as error:  # torch raises many kinds on damaged files
        raise NeumetaError(
            f"cannot read {path}: truncated or damaged ({first_line(error)})"
        ) from error


def _refuse_program(path: Path) -> None:
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        entries = {name.rpartition("/")[2] for name in archive.namelist()}
    for entry, kind in PROGRAMS.items():
        if entry in entries:
            raise NeumetaError(
                f"{path} is {kind}, not a state dict; where the program can be run, save its "
                "weights: torch.save(dict(program.state_dict()), FILE)"
            )


def _named(path: Path, error: str) -> str:
    """The classes that a pickle asks for, and how to do without those that are well known."""
    try:
        classes = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # only archives list theirs; torch raises many kinds on others
        classes = []
    if not classes:
        classes = re.findall(r"GLOBAL ([\w.]+) was not an allowed", error)
    told = []
    for name in sorted(set(classes)):
        instead = next((text for end, text in INSTEAD.items() if name.endswith(end)), "")
        told.append(f"{name} ({instead})" if instead else name)
    more = ", …" if len(told) > MOST_NAMED else ""
    return f", {', '.join(told[:MOST_NAMED])}{more}" if told else ""
