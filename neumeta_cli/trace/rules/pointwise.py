"""Operators that work on each element: of one tensor, or of several spread over each other."""

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from neumeta_cli.trace.combine import combine
from neumeta_cli.trace.labels import Atoms, Group, Labels
from neumeta_cli.trace.rules.table import Call, rule

JOINT_ELEMENTS = 65_536  # above these, a constant is labelled dimension by dimension


@rule("""
    relu relu_ relu6 hardtanh hardtanh_ silu silu_ gelu gelu_ sigmoid sigmoid_ tanh tanh_ hardswish
    hardswish_ hardsigmoid hardsigmoid_ leaky_relu leaky_relu_ elu elu_ softplus mish mish_ neg
    neg_ exp exp_ expm1 log log1p log2 sqrt sqrt_ rsqrt rsqrt_ abs square reciprocal clone detach
    detach_ alias dropout native_dropout _to_copy clamp clamp_min clamp_max clamp_ clamp_min_
    clamp_max_ erf erf_ erfinv sin cos tan atan floor ceil round sign sgn contiguous lift_fresh
    bernoulli bernoulli_ logical_not bitwise_not isnan isinf log_sigmoid_forward logit logit_
    nan_to_num celu selu threshold threshold_ zero_ fill_ conj _conj conj_physical resolve_conj
    resolve_neg _neg_view real imag angle positive rad2deg trunc frac
""")
def unary(call: Call) -> list[Labels]:
    """One element in, one element out, the same everywhere."""
    x = call.x
    return [x if len(out.shape) == len(x) else call.atoms.plain(out.shape) for out in call.outs]


@rule("""
    add add_ sub sub_ mul mul_ div div_ maximum minimum fmax fmin pow pow_ rsub where addcmul
    addcmul_ addcdiv addcdiv_ atan2 eq ne lt gt le ge logical_and logical_or logical_xor
    bitwise_and bitwise_or remainder fmod floor_divide lerp lerp_ masked_fill masked_fill_ copy_
    copy hypot logaddexp special_xlog1py xlogy expand_as complex polar _prelu_kernel
""")
def broadcast(call: Call) -> list[Labels]:
    """Several tensors, aligned at their last dimensions."""
    rank = len(call.shape)
    return [spread(call.atoms, [call.lookup(t) for t in call.tensors], rank)]


def spread(atoms: Atoms, operands: Sequence[Labels], rank: int) -> Labels:
    """Labels of an elementwise result of this many dimensions."""
    named = [(labels, range(rank - len(labels), rank)) for labels in operands]
    return combine(atoms, named, range(rank))


@rule("prelu")
def prelu(call: Call) -> list[Labels]:
    """A slope for each channel, dimension 1, or one for all."""
    x, weight = call.x, call.given("weight")
    names = [1] if weight.dims and weight.dims[0] else [-1]
    return [combine(call.atoms, [(x, range(len(x))), (weight, names)], range(len(x)))]


def plain_outputs(call: Call) -> list[Labels]:
    """Outputs in which nothing may move."""
    return [call.atoms.plain(out.shape) for out in call.outs]


@rule(
    "zeros ones full empty new_zeros new_ones new_full new_empty zeros_like ones_like full_like "
    "empty_like scalar_tensor"
)
def uniform(call: Call) -> list[Labels]:
    """A tensor of one value: its elements may move, until something is written into it."""
    atoms, shape = call.atoms, call.shape
    if prod(shape) > JOINT_ELEMENTS:
        return [atoms.labelled(shape)]
    bare = atoms.plain(shape)
    factors = tuple(f for d in bare.dims for f in d)
    sizes = [atoms.sizes[f] for f in factors]
    return [replace(bare, groups=(Group(factors, atoms.fresh(*sizes)),) if factors else ())]


@rule("arange linspace rand randn randperm rand_like randn_like eye tril_indices triu_indices")
def made(call: Call) -> list[Labels]:
    """A tensor made from nothing: every index is a place of its own."""
    return plain_outputs(call)
