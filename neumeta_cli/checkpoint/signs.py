"""What a file is by its first bytes, where it is no file of weights whatever it is called."""

from pathlib import Path

from neumeta_cli.checkpoint.files import suffix_of
from neumeta_cli.errors import NeumetaError

READ = 512  # bytes
SIGNS = (  # how a file begins, what it is then, and what to do
    (b"version https://git-lfs", "a Git LFS pointer, not the weights", "run git lfs pull"),
    (b"<", "a web page or XML", "download it again"),
    (b"\x1f\x8b", "compressed by gzip", "unpack it first (gunzip)"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", "unpack it first (unzstd)"),
    (b"BZh", "compressed by bzip2", "unpack it first (bunzip2)"),
    (b"\xfd7zXZ", "compressed by xz", "unpack it first (unxz)"),
    (b"\x89HDF", "HDF5, as Keras writes it", "save weights of PyTorch"),
    (
        b"\x93NUMPY",
        "an array of numpy",
        "save a dict of torch.from_numpy(x) under the layers' names",
    ),
    (b"GGUF", "GGUF", "give the weights from before, as .safetensors"),
    (b"{", "JSON", "give the weights themselves, not what describes them"),
)
SAVED = (b"PK", b"\x80")  # by torch.save: an archive, or a pickle as in the first years
OLD_PICKLES = (b"(", b"}", b"]", b")", b"c")  # of the first two protocols
HEADER = 8  # bytes of a .safetensors file before its JSON, which say how long that is
LONGEST_HEADER = 100_000_000  # bytes, as the format has it


def check_signs(path: Path) -> None:
    """Refuse what begins as no file of weights does.

    Args:
        path: of a file that is not empty, with a known ending.

    Raises:
        NeumetaError: says what it is and what to do.

    """
    with path.open("rb") as file:
        begin = file.read(READ)
    tensors, safe = _is_safe(begin), suffix_of(path) == ".safetensors"
    if tensors and not safe:
        raise NeumetaError(f"{path} is a safetensors file; rename it to .safetensors")
    if tensors or (not safe and _is_tar(begin)):
        return
    if begin.startswith(SAVED):
        if safe:
            raise NeumetaError(
                f"{path} is a file of torch.save, not safetensors; rename it to .pth"
            )
        return
    for sign, kind, todo in SIGNS:
        if begin.lstrip().startswith(sign):
            raise NeumetaError(f"{path} is {kind}; {todo}")
    if not safe and not begin.startswith(OLD_PICKLES):
        raise NeumetaError(
            f"cannot read {path}: it is no file of torch.save (it begins with {begin[:8]!r}); "
            "download it again, or save model.state_dict() in it"
        )


def _is_safe(begin: bytes) -> bool:
    """Whether a file begins as safetensors do: the length of the header, and that as JSON."""
    length = int.from_bytes(begin[:HEADER], "little")
    return begin[HEADER : HEADER + 1] == b"{" and length <= LONGEST_HEADER


def _is_tar(begin: bytes) -> bool:
    return begin[257:262] == b"ustar"
