"""The sections of a recipe: their fields, what these mean, and which values they take."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from neumeta_cli.choices import Norm, Weighting


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSection(Section):
    arch: str = Field(
        description="timm or torchvision name, one of ours, or package.module:factory"
    )
    checkpoint: str | None = Field(
        None, description="weights to start from, relative to this file; --checkpoint overrides it"
    )
    weights_key: str | None = Field(
        None,
        description="which weights in that file, if it has several: their key, such as "
        "state_dict_ema, or the prefix of their names; --weights-key overrides it",
    )
    num_classes: int | None = Field(
        None, ge=1, description="number of classes, if not the network's own"
    )
    kwargs: dict[str, Any] = Field(
        {}, description="other arguments to build the architecture with, such as img_size: 32"
    )
    heads: Literal["width", "count"] = Field(
        "width",
        description="how a width changes attention heads: width, the channels inside each head, or "
        "count, the number of heads",
    )
    input_size: tuple[int, int, int] | None = Field(
        None, description="channels, height and width, if not the network's usual ones"
    )

    @field_validator("input_size")
    @classmethod
    def _positive(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and min(value) < 1:
            raise ValueError("sizes are positive")
        return value


class DataSection(Section):
    format: Literal[
        "digits",
        "mnist",
        "cifar10",
        "cifar100",
        "image_folder",
        "mask_folder",
        "voc",
        "celeba",
        "own",
    ] = Field(
        "image_folder",
        description="digits (ships with scikit-learn); mnist, cifar10, cifar100, voc or celeba (as "
        "torchvision has them); image_folder (train/<class>/ and test/ or val/ likewise) or "
        "mask_folder (train/images/ and train/masks/, and test/ or val/); own (a task of your own "
        "reads them)",
    )
    root: str | None = Field(None, description="folder of the data; --data overrides it")
    download: bool = Field(
        False,
        description="download the data into the folder, if torchvision can; same as --download",
    )
    image_size: Annotated[int, Field(ge=1)] | tuple[int, int] | None = Field(
        None,
        description="images are resized to this size, or to this height and width; if not given, "
        "to the network's input size",
    )
    classes: int | None = Field(None, ge=2, description="number of classes in masks")
    ignore: int | None = Field(
        None, ge=0, le=255, description="class number of mask pixels that do not count"
    )
    mean: list[float] = Field(
        [0.485, 0.456, 0.406], description="subtracted from each channel, whose values are 0 to 1"
    )
    std: list[float] = Field([0.229, 0.224, 0.225], description="divides each channel after that")
    flip: bool = Field(False, description="random horizontal flips in training")
    crop_padding: int = Field(
        0, ge=0, description="random crops after padding by this number of pixels"
    )
    crop_size: tuple[int, int] | None = Field(
        None,
        description="height and width of random crops in training; if not given, the whole image",
    )
    resized_crop: tuple[float, float] | None = Field(
        None,
        description="random crops of a fraction of the image's area (lowest, highest), resized to "
        "crop_size",
    )
    colour_jitter: float = Field(
        0.0,
        ge=0,
        le=1,
        description="brightness, contrast and saturation change by up to ± this fraction",
    )
    blur: float = Field(0.0, ge=0, le=1, description="fraction of images that are blurred")

    @field_validator("image_size", "crop_size")
    @classmethod
    def _positive(cls, value: int | tuple[int, int] | None) -> int | tuple[int, int] | None:
        if isinstance(value, tuple) and min(value) < 1:
            raise ValueError("sizes are positive")
        return value

    @field_validator("resized_crop")
    @classmethod
    def _shares(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not 0 < value[0] <= value[1] <= 1:
            raise ValueError("shares of the area go from low to high, above 0 and up to 1")
        return value

    def at(self, root: str) -> "DataSection":
        """The same way to read a folder; the digits, which have none, become class folders."""
        form = "image_folder" if self.format == "digits" else self.format
        return DataSection(**{**self.model_dump(), "root": root, "format": form})


class PermuteSection(Section):
    solver: str = Field("2.5-opt", description="2.5-opt, greedy, identity, random or python-tsp")
    seed: int = Field(0, description="random seed of the solver")
    time_limit: float | None = Field(None, gt=0, description="most seconds to solve one clique")
    norm: Norm = Field("l1", description="norm of the difference of two channels within a weight")
    weighting: Weighting = Field(
        "none",
        description="how much each weight counts: none (as it is, as in the paper), equal (all the "
        "same) or producer (only the weight that makes the channels)",
    )


class NormSection(Section):
    fold: bool = Field(
        True,
        description="fold batch norm into convolutions before the fit; if not, norms in scope use "
        "the statistics of the batch in the fit and those of the calibration images afterwards",
    )
    images: int = Field(
        256, ge=2, description="training images kept in the manifold's file to calibrate norms"
    )
    quality: int | None = Field(
        90,
        ge=1,
        le=100,
        description="quality of the JPEG that they are kept as; none: no JPEG, all bits",
    )


class InrSection(Section):
    kind: Literal["mlp", "factorised", "selected", "integral"] = Field(
        "mlp",
        description="mlp (the paper's), factorised (functions of c_in times those of c_out), "
        "selected (the checkpoint's largest channels, changed as more of them are missing) or "
        "integral (the checkpoint's weights, interpolated along all its channels)",
    )
    knots: list[float] = Field(
        [0.25, 0.5, 0.75],
        description="γ at which each change of a selected INR is complete; with none it learns "
        "slices of one network, otherwise the full width stays the checkpoint",
    )
    store: Literal["float32", "float16", "int8"] = Field(
        "float32",
        description="number format of the INR's parameters in the file; int8: 8 bits for matrices, "
        "with a scale for each output channel, and float16 for vectors",
    )
    per: Literal["type", "layer", "tensor"] = Field(
        "tensor",
        description="what gets a network of its own: weights and vectors (type), each layer, or "
        "each tensor",
    )
    hidden: int = Field(256, ge=1, description="width of the MLP")
    layers: int = Field(5, ge=1, description="hidden layers of the MLP")
    frequencies: int = Field(
        16, ge=1, description="number of frequencies that embed channel and layer as sinusoids"
    )
    size_frequencies: int | None = Field(
        None, ge=0, description="the same for sizes; if not given, as many as frequencies"
    )
    scale: Literal["fan_in", "checkpoint"] = Field(
        "fan_in",
        description="outputs are divided by C_in; checkpoint also sets each tensor's spread",
    )

    @field_validator("knots")
    @classmethod
    def _ascending(cls, value: list[float]) -> list[float]:
        if any(not 0 < knot < 1 for knot in value) or sorted(set(value)) != value:
            raise ValueError("knots ascend between 0 and 1")
        return value

    @property
    def frequencies_of_sizes(self) -> int:
        """``size_frequencies``, or as many as ``frequencies`` where it is not given."""
        return self.frequencies if self.size_frequencies is None else self.size_frequencies


class NoiseSection(Section):
    channels: float = Field(
        0.5,
        ge=0,
        description="uniform noise on channel coordinates in the fit, in ± channel indices",
    )
    sizes: float = Field(0.5, ge=0, description="the same on the size coordinates")
    samples: int = Field(
        50, ge=1, description="K, the number of noisy samples that are averaged into one weight"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="number format of the INR's matrix products in these samples; auto: bfloat16 "
        "for noisy samples of an mlp if the processor computes in it (its rounding is far below "
        "the "
        "noise that remains after K samples), else float32",
    )


class LossSection(Section):
    task: float = Field(1.0, ge=0, description="weight of the task's loss")
    recon: float = Field(1.0, ge=0, description="λ1, weight of ‖W0‖²·‖W − W0‖² at full width")
    reg: float = Field(1e-4, ge=0, description="λ2, weight of ‖W‖²")
    distill: float = Field(
        0.0, ge=0, description="weight of the KL divergence from the checkpoint's outputs"
    )
    temperature: float = Field(2.0, gt=0, description="temperature of that divergence")
    hint: float = Field(
        0.0,
        ge=0,
        description="weight of the distance between features and the checkpoint's for the same "
        "channels, where layers read them; decays with the learning rate; for a selected INR",
    )


class FitSection(Section):
    epochs: int = Field(200, ge=1, description="passes over the training data")
    batch_size: int = Field(128, ge=1, description="images in each step")
    learning_rate: float = Field(
        1e-3, gt=0, description="Adam's learning rate, decayed to 0 along a cosine"
    )
    rising_steps: int = Field(
        0, ge=0, description="first steps, in which the learning rate rises to its full value"
    )
    ema: float = Field(0.995, ge=0, lt=1, description="decay per step of the averaged weights")
    gamma: tuple[float, float] = Field(
        (0.0, 0.5), description="range of γ = 1 - width; each step draws one uniformly"
    )
    gamma_power: float = Field(
        1.0,
        gt=0,
        description="γ = low + (high - low)·u^power, u uniform; below 1 favours narrow networks",
    )
    anchors: list[float] = Field(
        [], description="values of γ that steps train beside the random one (the sandwich rule)"
    )
    anchor_shares: list[Annotated[float, Field(gt=0, le=1)]] = Field(
        [], description="fraction of the steps in which each anchor is trained; empty: all steps"
    )
    mixed: float = Field(
        0.0,
        ge=0,
        le=1,
        description="fraction of the steps in which each clique has a γ of its own, from a pool "
        "of 200 such networks",
    )
    mixed_gamma: tuple[float, float] = Field(
        (0.0, 0.75),
        description="range of these; at least one γ lies within fit.gamma where the ranges overlap",
    )
    mixed_power: float = Field(
        1.0, gt=0, description="the same as gamma_power, for these; below 1 favours narrow networks"
    )
    drawn_weight: float = Field(
        1.0, gt=0, description="weight of the random network's loss relative to an anchor's"
    )
    knot_rates: list[float] = Field(
        [],
        description="factors of the learning rate for each change of a selected INR, one for "
        "each of inr.knots; empty: all 1",
    )
    update: float = Field(
        0.5,
        gt=0,
        le=1,
        description="fraction of the tensors in scope that each step trains, chosen at random",
    )
    warmup_steps: int = Field(
        0, ge=0, description="first steps, which train the reconstruction only"
    )
    clip: float | None = Field(
        None, gt=0, description="largest norm of the gradient; larger ones are scaled down"
    )
    views: int = Field(
        0, ge=0, description="augmented copies whose frozen features are computed once; 0: none"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="number format of matrix products and convolutions in the fit; auto: "
        "whichever is faster for this network on this machine, tried at the start",
    )
    save_steps: int = Field(
        500, ge=1, description="steps between two saves of the state; an epoch's end saves too"
    )
    limit: int | None = Field(
        None, ge=1, description="number of training images to use; all if not given"
    )

    @field_validator("gamma", "mixed_gamma")
    @classmethod
    def _range(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not value[0] <= value[1] < 1:
            raise ValueError("a range of γ goes from low to high, both below 1")
        return value

    @field_validator("knot_rates")
    @classmethod
    def _positive(cls, value: list[float]) -> list[float]:
        if any(rate <= 0 for rate in value):
            raise ValueError("factors of the learning rate are positive")
        return value

    @field_validator("anchors")
    @classmethod
    def _below_one(cls, value: list[float]) -> list[float]:
        if any(gamma >= 1 for gamma in value):
            raise ValueError("γ = 1 - width lies below 1")
        return value


class EvalSection(Section):
    gammas: list[float] = Field(
        [0.0, 0.25, 0.5, 0.75], description="compression ratios in the table at the end"
    )
    watch: int = Field(
        500, ge=0, description="test images on which the accuracy is shown after each epoch"
    )
    watch_gammas: list[float] = Field(
        [0.0, 0.5], description="compression ratios of the networks that are watched"
    )


class CompareSection(Section):
    methods: list[str] = Field(
        ["neumeta", "individual", "us_net", "integral", "l1", "l1_bn"],
        description="what neumeta compare runs; all: every method",
    )
    seeds: int = Field(
        1, ge=1, description="runs of each method, with the random seed and the next ones"
    )
    vary: dict[str, list[Any]] = Field(
        {},
        description="an ablation: recipe fields and their values; NeuMeta is run with every "
        "combination in place of the methods",
    )
    layer: str | None = Field(
        None,
        description="layer whose outputs CKA compares; if not given, the inputs of the last "
        "linear layer",
    )
    images: int = Field(1000, ge=2, description="test images for CKA and KL")


class TrainSection(Section):
    epochs: int = Field(30, ge=1, description="passes over the training data")
    batch_size: int = Field(128, ge=1, description="images in each step")
    learning_rate: float = Field(
        1e-3, gt=0, description="Adam's learning rate, decayed to 0 along a cosine"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="number format of matrix products and convolutions; auto: the same as in the "
        "fit",
    )
    save_steps: int = Field(
        500, ge=1, description="steps between two saves of the state; an epoch's end saves too"
    )
