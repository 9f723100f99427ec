"""Architectures by name: ours, torchvision's, timm's, and a user's ``package.module:factory``."""

import difflib
import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

from neumeta_cli.checkpoint.cuts import Cut, parse_cut
from neumeta_cli.checkpoint.integrity import first_line
from neumeta_cli.checkpoint.loose import register_tensors, unsaved_tensors
from neumeta_cli.errors import NeumetaError
from neumeta_cli.zoo import ZOO

LIBRARIES = ("zoo", "torchvision", "timm")
CUTTER = "neumeta_cli.resize.cutting:cut_down"  # by its name, as tracing comes after checkpoints
PLAIN = {  # whole numbers that a file may give a factory without permission, and their most
    "num_classes": 100_000,
    "in_chans": 4096,
    "img_size": 4096,
    "image_size": 4096,
    "patch_size": 256,
    "embed_dim": 8192,
    "depth": 256,
    "num_heads": 256,
}
WORDS = {  # and other values that it may give
    "num_classes": (0,),  # the features
    "aux_logits": (True, False),
    "aux_loss": (True, False),
    "global_pool": ("", "avg", "max", "avgmax", "catavgmax", "token", "map"),
}
MOST_NUMBER, MOST_IN_LIST, LONGEST_LIST = 1024, 64, 16  # of other arguments that are numbers
# What torchvision builds with where it loads weights of its own, and no state dict tells.
PUBLISHED: dict[str, dict[str, Any]] = {
    "torchvision/googlenet": {"transform_input": True},
    "torchvision/inception_v3": {"transform_input": True},
}
REACHING = ("pretrained", "weights", "checkpoint", "cache", "file", "url")  # in their names


@dataclass(frozen=True)
class Arch:
    """A network that can be built again.

    Attributes:
        name: ``library/name`` or ``package.module:factory``.
        kwargs: arguments of the factory.
        cuts: how it was narrowed since, in this order; none for the network as its factory has it.

    """

    name: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    cuts: tuple[Cut, ...] = ()

    def build(self, device: str = "meta") -> nn.Module:
        """Build the network in evaluation mode, by default without allocating its weights.

        One that was narrowed has no weights on any device.
        """
        if self.cuts:
            *before, last = self.cuts
            whole = replace(self, cuts=tuple(before)).build_with_tables()
            narrowed: nn.Module = import_attribute(CUTTER, self.name)(whole, last)
            return narrowed
        factory = _factory(self.name)
        if ":" in self.name:
            return register_tensors(self._build_own(factory, device)).eval()
        try:
            with torch.device(device):
                model: nn.Module = factory(**self.kwargs)
        except NotImplementedError:  # it computes its sizes with an operator that meta lacks
            if device != "meta":
                raise
            model = factory(**self.kwargs).to(device)
        return model.eval()

    def build_with_tables(self) -> nn.Module:
        """The network on the meta device, or where it computes tables that no file holds, not.

        Raises:
            NeumetaError: a user's factory draws such a table at random.

        """
        model, own = self.build(), ":" in self.name and not self.cuts
        unsaved = unsaved_tensors(model)
        if not (own and unsaved) and not any(tensor.is_meta for _, tensor in unsaved):
            return model
        with torch.random.fork_rng(devices=[]):
            made = self.build("cpu")
            again = self.build("cpu") if own else made
        for (name, one), (_, other) in zip(
            unsaved_tensors(made), unsaved_tensors(again), strict=True
        ):
            if not torch.equal(one, other):
                raise NeumetaError(
                    f"{self.name}: {name} has other values each time that it is built, and no file "
                    "holds them; make a buffer of it (register_buffer), and save the network again"
                )
        return made

    def as_dict(self) -> dict[str, Any]:
        """As plain JSON types; ``recorded_arch`` reads them."""
        told: dict[str, Any] = {"name": self.name, "kwargs": dict(self.kwargs)}
        return told | ({"cuts": [cut.as_dict() for cut in self.cuts]} if self.cuts else {})

    def _build_own(self, factory: Any, device: str) -> nn.Module:
        """Call a user's factory, which may do anything.

        Where it looks at values, which tensors on the meta device lack, it is called on the CPU.
        """
        try:
            model = self._called(factory, device)
        except NeumetaError:
            if device != "meta":
                raise
            model = None
        if device == "meta" and (model is None or any(map(is_parametrized, model.modules()))):
            with torch.random.fork_rng(devices=[]):
                model = self._called(factory, "cpu").to("meta")
        assert model is not None
        return model

    def _called(self, factory: Any, device: str) -> nn.Module:
        """What a user's factory builds on a device."""
        try:
            with torch.device(device):
                model = factory(**self.kwargs)
        except Exception as error:
            raise NeumetaError(f"{self.name} cannot be built: {first_line(error)}") from error
        if not isinstance(model, nn.Module):
            raise NeumetaError(f"{self.name} returned a {type(model).__name__}, not an nn.Module")
        lazy = [n for n, t in (*model.named_parameters(), *model.named_buffers()) if is_lazy(t)]
        if lazy:
            raise NeumetaError(
                f"{self.name}: {lazy[0]} has no size yet; give its layer all sizes instead of "
                "a Lazy one"
            )
        return model

    @property
    def short(self) -> str:
        return self.name.rpartition("/")[2]

    def default_input_size(self) -> tuple[int, int, int]:
        """The (C, H, W) of one input by the library's own record, 3×224×224 where it has none."""
        library, _, name = self.name.partition("/")
        channels = self.kwargs.get("in_chans", 3)
        if library == "zoo":
            return ZOO[name].input_size
        if library == "timm":
            import timm

            config = timm.get_pretrained_cfg(name, allow_unregistered=True)  # old names have none
            size = config.input_size if config else (3, 224, 224)
            side = self.kwargs.get("img_size")
            return (channels, side, side) if type(side) is int else (channels, *size[1:])
        if library == "torchvision":
            crop = self.kwargs.get("image_size") or _tv_crop_size(name)
            return (channels, crop, crop)
        return (channels, 224, 224)


@cache
def names_of(library: str) -> tuple[str, ...]:
    """Every architecture name of ``zoo``, ``torchvision`` or ``timm``."""
    if library == "zoo":
        return tuple(ZOO)
    if library == "torchvision":
        import torchvision.models as tv_models

        listed: list[str] = tv_models.list_models(module=tv_models)
        return tuple(listed + tv_models.list_models(module=tv_models.segmentation))
    import timm

    return tuple(timm.list_models())


def resolve(name: str) -> Arch:
    """The architecture that a user means by ``name``.

    A bare name is looked for in our zoo, then in torchvision, then in timm.

    Raises:
        NeumetaError: nobody has it; close names are listed.

    """
    if ":" in name:
        return Arch(name)
    library, slash, bare = name.partition("/")
    if slash and library in LIBRARIES:
        places: tuple[str, ...] = (library,)
    else:
        places, bare = LIBRARIES, name
    for place in places:
        if bare in names_of(place) or (place == "timm" and _timm_builds(bare)):
            return as_published(Arch(f"{place}/{bare}"))
    known = dict.fromkeys(n for place in places for n in names_of(place))
    close = difflib.get_close_matches(bare, known, n=4)
    hint = f"; did you mean {', '.join(close)}?" if close else "."
    raise NeumetaError(
        f"unknown architecture {name!r}{hint} Give a timm or torchvision name, "
        f"one of ours ({', '.join(ZOO)}), or package.module:factory"
    )


def as_published(arch: Arch) -> Arch:
    """An architecture as the library itself builds it for its own weights."""
    return replace(arch, kwargs={**PUBLISHED.get(arch.name, {}), **arch.kwargs})


def recorded_arch(document: Mapping[str, Any], trusted: bool) -> Arch:
    """The architecture that a file names, which may be anybody's.

    Args:
        document: as ``Arch.as_dict`` made it.
        trusted: whether the user said so.

    Raises:
        NeumetaError: it names code of its own or asks for unusual arguments and is not trusted, or
            nobody has an architecture of that name.
        KeyError, ValueError, TypeError: it is no architecture.

    """
    name, kwargs = str(document["name"]), dict(document["kwargs"])
    cuts = tuple(parse_cut(cut) for cut in document.get("cuts", ()))
    if trusted:
        return Arch(name, kwargs, cuts)
    if ":" in name:
        raise NeumetaError(
            f"the file names code of its own, {name}, which is not imported without permission; "
            "if you trust it, say --trust-code (trust_code=True in Python)"
        )
    for key, value in kwargs.items():
        if not _plain(key, value):
            raise NeumetaError(
                f"the file wants {name} built with {key}={str(value)[:40]!r}, which needs your "
                "permission; if you trust it, give a recipe that says so (model.arch, "
                "model.kwargs), or say --trust-code where the command has it (trust_code=True in "
                "Python)"
            )
    return Arch(resolve(name).name, kwargs, cuts)


def _plain(key: str, value: Any) -> bool:
    """Whether a file may give a library's factory this argument without permission."""
    if key in PLAIN or key in WORDS:
        counts = value if isinstance(value, list) else [value]  # of each stage, or side
        counted = all(type(one) is int and 1 <= one <= PLAIN.get(key, 0) for one in counts)
        return (0 < len(counts) <= LONGEST_LIST and counted) or value in _words(key, value)
    if any(word in key for word in REACHING):  # for what lies in other places
        return False
    if isinstance(value, list):
        return len(value) <= LONGEST_LIST and all(_number(one, MOST_IN_LIST) for one in value)
    return _number(value, MOST_NUMBER)


def _number(value: Any, most: int) -> bool:
    """Whether it is true, false or a number of modest size."""
    return type(value) in (bool, int, float) and -most <= value <= most


def _words(key: str, value: Any) -> tuple[Any, ...]:
    """The values of an argument that need no permission and are of the same type, as 0 == False."""
    return tuple(word for word in WORDS.get(key, ()) if type(word) is type(value))


def _factory(name: str) -> Any:
    if ":" in name:
        return import_attribute(name, "--arch")
    library, _, bare = name.partition("/")
    if library == "zoo" and bare in ZOO:
        return ZOO[bare].build
    if library == "torchvision":
        return lambda **kwargs: _build_torchvision(bare, kwargs)
    if library == "timm":
        import timm

        return lambda **kwargs: timm.create_model(bare, pretrained=False, **kwargs)
    raise NeumetaError(f"unknown architecture {name!r}")


def _timm_builds(name: str) -> bool:
    """Whether timm knows a name, be it one of those that it does not list."""
    import timm

    return bool(timm.is_model(name))


def _build_torchvision(name: str, kwargs: dict[str, Any]) -> nn.Module:
    import torchvision.models as tv_models

    extra: dict[str, Any] = {}
    if name in tv_models.list_models(module=tv_models.segmentation):
        extra["weights_backbone"] = None
    if name in ("googlenet", "inception_v3"):
        extra["init_weights"] = False
    model: nn.Module = tv_models.get_model(name, weights=None, **extra, **kwargs)
    return model


def import_attribute(name: str, said_by: str) -> Any:
    """What ``package.module:name`` names, also in a file of the working directory.

    Args:
        name: of a module and something in it.
        said_by: who named it, for the message.

    Raises:
        NeumetaError: there is no such thing.

    """
    module_name, _, attribute = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever a user's module raises while it is imported
        said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise NeumetaError(f"cannot import {module_name!r} for {said_by} {name}: {said}") from error
    if not hasattr(module, attribute):
        raise NeumetaError(f"{module_name} has no {attribute!r} (from {said_by} {name})")
    return getattr(module, attribute)


def _tv_crop_size(name: str) -> int:
    import torchvision.models as tv_models

    weights = tv_models.get_model_weights(name)
    if len(weights) == 0:
        return 224
    transforms = next(iter(weights)).transforms()
    crop = getattr(transforms, "crop_size", None) or [224]
    return int(crop[0])
