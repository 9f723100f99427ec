"""Networks that run with no neumeta installed: ``.pt2`` for torch, ``.onnx`` for other runtimes."""

import io
import json
import logging
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from neumeta_cli.checkpoint import (
    BLANK,
    DIGEST,
    METADATA_KEY,
    InputSize,
    check_archive,
    first_line,
    is_sealed,
    parse_metadata,
    seal,
    write_atomically,
)
from neumeta_cli.errors import NeumetaError
from neumeta_cli.export.precision import check_dtype, example, outputs_of, relative_error

PT2_ENTRY = f"{METADATA_KEY}.json"  # among the archive's extra files
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
ONNX_MOST_BYTES = (1 << 31) - (1 << 24)  # of a protobuf, less what is no weights
TRACED_BATCH, CHECKED_BATCHES = 2, (1, 3)
TOLERANCE = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 8e-2}

CHANGED = "its content does not match its checksum: it is damaged, or another tool changed it"
ESCAPE = re.compile(r"\x1b\[[0-9;]*m")  # colours

Run = Callable[[Tensor], list[Tensor]]  # a network: images to all tensors that it gives


@dataclass(frozen=True)
class Program:
    """A format of networks that run with no neumeta installed.

    Attributes:
        write: writes a file: (path, network in evaluation mode on the CPU, (C, H, W) of an input,
            what the file is to say of itself, the only batch size that it takes or None).
        read: what a file says of itself, and what can be seen in it.
        open: a file as a function of images.
        run_by: what runs it.
        check: refuses a number format, or that a package is missing, before any work is done.

    """

    write: Callable[[Path, nn.Module, InputSize, dict[str, Any], int | None], Path]
    read: Callable[[Path], tuple[dict[str, Any], dict[str, Any]]]
    open: Callable[[Path], Run]
    run_by: str
    check: Callable[[torch.dtype], None] = lambda dtype: None


def check_onnx(dtype: torch.dtype) -> None:
    """Refuse what cannot be exported to ONNX before any work is done.

    Raises:
        NeumetaError: a package is not installed, or onnxruntime has no such networks.

    """
    missing = [name for name in ONNX_PACKAGES if find_spec(name) is None]
    if missing:
        raise NeumetaError(
            f"ONNX needs {' and '.join(missing)}; install: pip install 'neumeta[onnx]'"
        )
    if dtype == torch.bfloat16:
        raise NeumetaError("onnxruntime has no bfloat16 convolutions; use float16 or a .pt2 file")


def write_pt2(
    path: Path,
    model: nn.Module,
    size: InputSize,
    metadata: dict[str, Any],
    batch: int | None = None,
) -> Path:
    """Write a program for ``torch.export.load``.

    Args:
        path: the file.
        model: in evaluation mode, on the CPU.
        size: (C, H, W) of one input.
        metadata: our JSON, kept as an extra file.
        batch: the only batch size that it is to take; any if None.

    Raises:
        NeumetaError: the network cannot be captured, or what was written computes otherwise.

    """
    with _capturing(path, model):
        program = _capture(model, size, batch)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # names files of this machine
    extra = {PT2_ENTRY: json.dumps(metadata)}

    def write(partial: Path) -> None:
        # In memory first: torch (2.14) does not close the archive of a file that it cannot write,
        # and ends the process when the archive is freed.
        whole = io.BytesIO()
        with _quiet():
            torch.export.save(program, whole, extra_files=extra)
        partial.write_bytes(whole.getbuffer())
        _check(path, model, size, batch, lambda: _open_pt2(partial))

    return write_atomically(path, write)


def write_onnx(
    path: Path,
    model: nn.Module,
    size: InputSize,
    metadata: dict[str, Any],
    batch: int | None = None,
) -> Path:
    """Write an ONNX file; arguments and errors as of ``write_pt2``."""
    dtype = next(model.parameters()).dtype
    check_onnx(dtype)
    import onnx

    if sum(t.numel() * t.element_size() for t in model.state_dict().values()) > ONNX_MOST_BYTES:
        raise NeumetaError(f"cannot write {path}: ONNX files end at 2 GiB; use .pt2 or float16")
    outputs = outputs_of(model, example(size, TRACED_BATCH, dtype))
    names = ["output"] if len(outputs) == 1 else [f"output_{n}" for n in range(len(outputs))]
    with _capturing(path, model), _quiet():
        program = torch.onnx.export(
            model,
            (example(size, batch or TRACED_BATCH, dtype),),
            dynamo=True,
            dynamic_shapes=None if batch else ({0: Dim("batch")},),
            input_names=["input"],
            output_names=names,
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    if batch is None and any(_batch_of(value) for value in proto.graph.input):
        raise NeumetaError(_fixed_batch(path, model))
    for node in proto.graph.node:
        del node.metadata_props[:]  # stack traces, which name files of this machine
    onnx.helper.set_model_props(proto, {METADATA_KEY: json.dumps(metadata | {DIGEST: BLANK})})

    def write(partial: Path) -> None:
        partial.write_bytes(seal(proto.SerializeToString()))
        _check(path, model, size, batch, lambda: _open_onnx(partial))

    return write_atomically(path, write)


def read_pt2(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a ``.pt2`` file says of itself, nothing of the program being loaded or seen.

    Raises:
        NeumetaError: it is no whole archive.

    """
    check_archive(path)
    try:
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise NeumetaError(f"cannot read {path}: {damaged} in it is damaged")
            names = [n for n in archive.namelist() if n.endswith(f"/extra/{PT2_ENTRY}")]
            texts = [archive.read(name).decode() for name in names]
    except NeumetaError:
        raise
    except Exception as error:  # zipfile raises many kinds on damaged files
        raise NeumetaError(
            f"cannot read {path}: not a whole .pt2 file ({first_line(error)})"
        ) from error
    return (parse_metadata(path, texts[0]) if texts else {}), {}


def read_onnx(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What an ``.onnx`` file says of itself, and what can be seen in it.

    Raises:
        NeumetaError: it is damaged, or the package ``onnx`` is not installed.

    """
    if find_spec("onnx") is None:
        raise NeumetaError("reading ONNX needs onnx; install: pip install 'neumeta[onnx]'")
    import onnx

    try:
        content = path.read_bytes()
        model = onnx.load_model_from_string(content)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf and onnx raise kinds of their own
        raise NeumetaError(f"cannot read {path}: damaged ({first_line(error)})") from error
    texts = {entry.key: entry.value for entry in model.metadata_props}
    weights = model.graph.initializer
    seen = {
        "tensors": len(weights),
        "values": sum(_product(weight.dims) for weight in weights),
        "dtypes": sorted({onnx.TensorProto.DataType.Name(w.data_type).lower() for w in weights}),
        "opset": max((entry.version for entry in model.opset_import), default=None),
        "inputs": {value.name: _onnx_shape(value) for value in model.graph.input},
        "outputs": {value.name: _onnx_shape(value) for value in model.graph.output},
    }
    own = parse_metadata(path, texts[METADATA_KEY]) if METADATA_KEY in texts else {}
    return own, seen | {"as_written": is_sealed(content, own)}


def _product(numbers: Any) -> int:
    total = 1
    for number in numbers:
        total *= number
    return total


def _onnx_shape(value: Any) -> list[str | int]:
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


def _batch_of(value: Any) -> int:
    """The batch size of an input that takes no other, else 0."""
    return int(value.type.tensor_type.shape.dim[0].dim_value)


def _capture(model: nn.Module, size: InputSize, batch: int | None) -> ExportedProgram:
    images = example(size, batch or TRACED_BATCH, next(model.parameters()).dtype)
    anything = None if batch else ({0: Dim("batch")},)
    return torch.export.export(model, (images,), dynamic_shapes=anything)


def _fixed_batch(path: Path, model: nn.Module) -> str:
    return (
        f"cannot export {type(model).__name__} to {path} for every batch size: its forward pass "
        "makes the batch a fixed number, as len(x) does (x.shape[0] does not); export it for one "
        "batch size with --batch N (Finish(batch=N) in Python)"
    )


@contextmanager
def _capturing(path: Path, model: nn.Module) -> Iterator[None]:
    """One line for whatever keeps torch from capturing a network with any batch size."""
    try:
        yield
    except NeumetaError:
        raise
    except Exception as error:  # dynamo and its converters raise many kinds
        if "Constraints violated (batch)" in str(error):
            raise NeumetaError(_fixed_batch(path, model)) from error
        raise NeumetaError(
            f"cannot export {type(model).__name__} to {path}: {_last_cause(error)}; "
            "use .pt or .safetensors"
        ) from error


def _last_cause(error: BaseException) -> str:
    """What went wrong first, of errors that were raised because of others; no escape codes."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return ESCAPE.sub("", first_line(error))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch logs and warns of while it exports."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _open_pt2(path: Path) -> Run:
    with _quiet():
        loaded = torch.export.load(path).module()
    return lambda images: outputs_of(loaded, images)


def _open_onnx(path: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it has to say comes as an exception too
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> list[Tensor]:
        made = session.run(None, {"input": images.numpy()})
        return [torch.from_numpy(value).float() for value in made]

    return run


def _check(
    path: Path,
    model: nn.Module,
    size: InputSize,
    only: int | None,
    open_: Callable[[], Run],
) -> None:
    dtype = next(model.parameters()).dtype
    batches = CHECKED_BATCHES if only is None else (only,)
    try:
        run = open_()
        compared = [
            (run(images), outputs_of(model, images))
            for images in (example(size, batch, dtype) for batch in batches)
        ]
    except Exception as error:  # runtimes raise kinds of their own
        raise NeumetaError(
            f"{path} would not load or run again ({first_line(error)}); nothing is written"
        ) from error
    for got, wanted in compared:
        off = relative_error(got, wanted)
        if not off < TOLERANCE[dtype]:
            raise NeumetaError(
                f"{path} computes otherwise than the network in torch: outputs differ by "
                f"{off:.1e} of the largest, more than {TOLERANCE[dtype]:.0e}; nothing is written"
            )


PROGRAMS = {
    ".onnx": Program(write_onnx, read_onnx, _open_onnx, "onnxruntime.InferenceSession", check_onnx),
    ".pt2": Program(write_pt2, read_pt2, _open_pt2, "torch.export.load"),
}


class Running(nn.Module):
    """A program that neumeta wrote, as a module to be measured; it gives float32.

    Args:
        path: ``.onnx``, which onnxruntime runs, or ``.pt2``, which torch does.

    Attributes:
        metadata: what the file says of itself.

    Raises:
        NeumetaError: it is damaged or changed, was not written by neumeta, or what runs it is not
            installed.

    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        program = PROGRAMS[path.suffix]
        program.check(torch.float32)
        self.metadata, seen = program.read(path)
        if "input_size" not in self.metadata:
            raise NeumetaError(f"{path} was not written by neumeta, so its data are not known")
        if not seen.get("as_written", True):
            raise NeumetaError(f"{path}: {CHANGED}; copy or export it again")
        self._dtype = check_dtype(self.metadata.get("dtype", "float32"))
        try:
            self._run = program.open(path)
        except Exception as error:  # runtimes raise kinds of their own
            raise NeumetaError(f"{path} does not load: {first_line(error)}") from error

    def forward(self, images: Tensor) -> Any:
        outputs = self._run(images.to(self._dtype))
        return outputs[0] if len(outputs) == 1 else tuple(outputs)
