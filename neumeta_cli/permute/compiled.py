"""The compiled kernel of ℓ1 distances; apart, since numba takes half a second to import."""

import numpy as np

from neumeta_cli.permute.compiling import compiled

TILE = 64  # channels of a side of the square that is summed at once
DEPTH = 1024  # values per channel that are summed at once: a tile's rows stay in the cache


@compiled()
def add_l1(block, total):  # type: ignore[no-untyped-def]
    """Add L1 distances of the block's rows to the upper triangle; rows come in fours."""
    n = len(block)
    for top in range(0, n, TILE):
        for left in range(top, n, TILE):
            _add_tile(block, total, top, min(n, top + TILE), left, min(n, left + TILE))


@compiled(fastmath={"reassoc", "nsz"})
def _add_tile(block, total, top, bottom, left, right):  # type: ignore[no-untyped-def]
    """Sixteen sums run side by side, so that a value is read once for four others."""
    for start in range(0, block.shape[1], DEPTH):
        stop = min(block.shape[1], start + DEPTH)
        for i in range(top, bottom, 4):
            for j in range(max(left, i), right, 4):
                ae = af = ag = ah = be = bf = bg = bh = np.float32(0)
                ce = cf = cg = ch = de = df = dg = dh = np.float32(0)
                a, b = block[i, start:stop], block[i + 1, start:stop]
                c, d = block[i + 2, start:stop], block[i + 3, start:stop]
                e, f = block[j, start:stop], block[j + 1, start:stop]
                g, h = block[j + 2, start:stop], block[j + 3, start:stop]
                for k in range(stop - start):
                    ae += abs(a[k] - e[k])
                    af += abs(a[k] - f[k])
                    ag += abs(a[k] - g[k])
                    ah += abs(a[k] - h[k])
                    be += abs(b[k] - e[k])
                    bf += abs(b[k] - f[k])
                    bg += abs(b[k] - g[k])
                    bh += abs(b[k] - h[k])
                    ce += abs(c[k] - e[k])
                    cf += abs(c[k] - f[k])
                    cg += abs(c[k] - g[k])
                    ch += abs(c[k] - h[k])
                    de += abs(d[k] - e[k])
                    df += abs(d[k] - f[k])
                    dg += abs(d[k] - g[k])
                    dh += abs(d[k] - h[k])
                total[i, j] += ae
                total[i, j + 1] += af
                total[i, j + 2] += ag
                total[i, j + 3] += ah
                total[i + 1, j] += be
                total[i + 1, j + 1] += bf
                total[i + 1, j + 2] += bg
                total[i + 1, j + 3] += bh
                total[i + 2, j] += ce
                total[i + 2, j + 1] += cf
                total[i + 2, j + 2] += cg
                total[i + 2, j + 3] += ch
                total[i + 3, j] += de
                total[i + 3, j + 1] += df
                total[i + 3, j + 2] += dg
                total[i + 3, j + 3] += dh


@compiled()
def mirror(total):  # type: ignore[no-untyped-def]
    """Copy the upper triangle to the lower and clear the diagonal."""
    for i in range(len(total)):
        total[i, i] = 0
        for j in range(i):
            total[i, j] = total[j, i]
