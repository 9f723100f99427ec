"""Operators on space, where each position is a place of its own: pooling, resampling, shifts."""

from collections.abc import Sequence

from neumeta_cli.trace.combine import combine
from neumeta_cli.trace.factors import flatten_dim, mixed, reduce, view
from neumeta_cli.trace.labels import Labels
from neumeta_cli.trace.rules.table import Call, rule


def _positional(call: Call, dims: Sequence[int]) -> list[Labels]:
    """Outputs with these dimensions, of whatever size, plain."""
    return [mixed(call.atoms, call.x, dims, [out.shape[d] for d in dims]) for out in call.outs]


@rule("""
    max_pool2d_with_indices avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d
    upsample_nearest2d upsample_bilinear2d upsample_bicubic2d reflection_pad2d replication_pad2d
    _upsample_bilinear2d_aa _upsample_bicubic2d_aa adaptive_avg_pool2d _upsample_nearest_exact2d
    fractional_max_pool2d tril triu mkldnn_adaptive_avg_pool2d
""")
def plane(call: Call) -> list[Labels]:
    """The last two dimensions are space."""
    rank = len(call.x)
    return _positional(call, [rank - 2, rank - 1])


@rule("max_unpool2d max_unpool3d")
def unpool(call: Call) -> list[Labels]:
    """Each channel's values go where its own indices say, within that channel."""
    rank = len(call.x)
    x, indices = call.x, call.given("indices")
    tied = combine(call.atoms, [(x, range(rank)), (indices, range(rank))], range(rank))
    space = range(rank - 2 if "2d" in call.func.overloadpacket.__name__ else rank - 3, rank)
    return [mixed(call.atoms, tied, space, [call.shape[d] for d in space])]


@rule("""
    avg_pool1d max_pool1d adaptive_avg_pool1d adaptive_max_pool1d upsample_nearest1d
    upsample_linear1d reflection_pad1d replication_pad1d
""")
def line(call: Call) -> list[Labels]:
    """The last dimension is space."""
    return _positional(call, [len(call.x) - 1])


@rule("""
    avg_pool3d max_pool3d_with_indices _adaptive_avg_pool3d adaptive_max_pool3d upsample_nearest3d
    upsample_trilinear3d reflection_pad3d replication_pad3d
""")
def volume(call: Call) -> list[Labels]:
    """The last three dimensions are space."""
    rank = len(call.x)
    return _positional(call, [rank - 3, rank - 2, rank - 1])


@rule(
    "roll cumsum cumprod cummax cummin sort topk argsort logcumsumexp _fft_c2c _fft_r2c "
    "_fft_c2r fft_fftshift"
)
def along(call: Call) -> list[Labels]:
    """Some dimensions mix by position; the others stay."""
    return _positional(call, call.dims("dims" if call.arg("dims") is not None else "dim"))


@rule("unfold")
def unfold(call: Call) -> list[Labels]:
    """Windows along one dimension, their elements along a new last one."""
    at = call.arg("dimension") % len(call.x)
    x = mixed(call.atoms, call.x, [at], [call.shape[at]])
    return [x.with_dims([*x.dims, *call.atoms.plain(call.shape[-1:]).dims])]


@rule("grid_sampler_2d grid_sampler grid_sampler_3d")
def grid_sample(call: Call) -> list[Labels]:
    """Channels stay, places in space are read where a grid says."""
    call.atoms.fix_all(call.given("grid"))
    return _positional(call, range(2, len(call.x)))


@rule("pixel_shuffle")
def pixel_shuffle(call: Call) -> list[Labels]:
    """(…, C·r², H, W) to (…, C, H·r, W·r)."""
    r, shape = call.arg("upscale_factor"), call.first.shape
    lead = len(shape) - 3
    x = view(call.atoms, call.x, [*shape[:lead], shape[lead] // r**2, r, r, *shape[-2:]])
    c, down, right, high, wide = x.dims[lead:]
    return [x.with_dims([*x.dims[:lead], c, high + down, wide + right])]


@rule("pixel_unshuffle")
def pixel_unshuffle(call: Call) -> list[Labels]:
    """(…, C, H·r, W·r) to (…, C·r², H, W)."""
    r, (*lead, c, h, w) = call.arg("downscale_factor"), call.first.shape
    x = view(call.atoms, call.x, [*lead, c, h // r, r, w // r, r])
    channels, high, down, wide, right = x.dims[len(lead) :]
    return [x.with_dims([*x.dims[: len(lead)], channels + down + right, high, wide])]


@rule("channel_shuffle native_channel_shuffle")
def channel_shuffle(call: Call) -> list[Labels]:
    """Channels as (groups, each) become (each, groups)."""
    groups, shape = call.arg("groups"), call.first.shape
    x = view(call.atoms, call.x, [shape[0], groups, shape[1] // groups, *shape[2:]])
    return [x.with_dims([x.dims[0], x.dims[2] + x.dims[1], *x.dims[3:]])]


@rule("im2col")
def im2col(call: Call) -> list[Labels]:
    """(N, C, H, W) to (N, C · kernel, places)."""
    atoms = call.atoms
    x = mixed(atoms, flatten_dim(atoms, call.x, 1), [2, 3], [1, 1])
    taps, places = call.shape[1] // call.first.shape[1], call.shape[2]
    kernel = (atoms.factor(taps),) if taps > 1 else ()
    channels = x.dims[1] + kernel
    return [x.with_dims([x.dims[0], channels, *atoms.plain([places]).dims])]


@rule("col2im")
def col2im(call: Call) -> list[Labels]:
    """(N, C · kernel, places) to (N, C, H, W), what overlaps summed."""
    atoms, shape = call.atoms, call.first.shape
    channels = call.shape[1]
    x = view(atoms, call.x, [shape[0], channels, shape[1] // channels, shape[2]])
    x = reduce(atoms, atoms.pin(x, [2, 3]), [2, 3], keep=False)
    return [x.with_dims([*x.dims, *atoms.plain(call.shape[2:]).dims])]
