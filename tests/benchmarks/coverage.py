"""Trace, permute and resize one model of every family of timm and torchvision.

For each, on random weights and random norm statistics: the share of weights in cliques; the
relative change of the outputs, in float64, when every clique is permuted at random; what is left
at width 0.5; seconds to trace. Torch-Pruning's ``build_dependency`` and ``get_all_groups`` run
beside it, if installed (``pip install 'neumeta[bench]'``).

    python tests/benchmarks/coverage.py --json coverage.json
    python tests/benchmarks/coverage.py --only 'timm/*vit*' --no-peer
"""

import argparse
import gc
import json
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

sys.path.pop(0)  # this folder, in which numba would find a "coverage"
sys.path.insert(0, str(Path(__file__).parent.parent))
from model_checks import permutation_error, randomise, resize

from neumeta_cli.checkpoint import resolve
from neumeta_cli.trace import trace_model

TIMM = """
beit_base_patch16_224 halonet_h1 test_byobnet cait_xxs24_224 coat_tiny convit_tiny
convmixer_768_32 test_convnext cpubone_nano crossvit_tiny_240 csatv2 cs3darknet_focus_s
cspnext_tiny davit_tiny deepseek_vit_412m deit_tiny_patch16_224 densenet121 dla46x_c dpn48b
edgenext_xx_small efficientformer_l1 efficientformerv2_s0 test_efficientnet efficientvim_m1
efficientvit_b0 efficientvit_m0 vit_tiny_patch16_dinov3_qkvb fasternet_t0 fastvit_t8
focalnet_tiny_srf gcvit_xxtiny gemma4_vit_167m ghostnet_050 hardcorenas_b hgnetv2_b0
hiera_tiny_224 sam2_hiera_tiny hrnet_w18_small iformer_t inception_next_atto
ens_adv_inception_resnet_v2 adv_inception_v3 inception_v4 lcnetv2_small levit_128s lowformer_b0
test_mambaout test_coatnet poolformerv2_s12 gmlp_ti16_224 mobilenetv3_small_050 mobilenetv5_base
mobilevit_xxs mvitv2_tiny naflexvit_base_patch16_parfac_gap nasnetalarge jx_nest_tiny
nextvit_small test_nfnet pit_ti_224 pnasnet5large pvt_v2_b0 qwen3_vit_88m rdnet_tiny regnetx_002
repghostnet_050 repvit_m1 res2next50 resnest14d test_resnet resnetv2_18 rexnet_100 selecsls42
legacy_seresnet18 sequencer2d_s shvit_s1 skresnet18 starnet_s050 swiftformer_xs
swin_tiny_patch4_window7_224 swinv2_tiny_window16_256 swinv2_cr_tiny_224 tiny_vit_5m_224
tnt_s_legacy_patch16_224 tresnet_m twins_svt_small vgg11 visformer_tiny test_vit
vit_tiny_r_s16_p8_224 test_vit_relpos samvit_base_patch16_224 vitamin_small_224 volo_d1_224
ese_vovnet19b_slim_dw legacy_xception xception41p xcit_nano_12_p8_224
"""
TORCHVISION = """
alexnet convnext_tiny densenet121 efficientnet_b0 efficientnet_v2_s googlenet inception_v3
maxvit_t mnasnet0_5 mobilenet_v2 mobilenet_v3_small regnet_x_400mf regnet_y_400mf resnet18
resnext50_32x4d shufflenet_v2_x0_5 shufflenet_v2_x1_0 squeezenet1_1 swin_t swin_v2_t vgg11_bn
vit_b_16 wide_resnet50_2 deeplabv3_mobilenet_v3_large deeplabv3_resnet50 fcn_resnet50
lraspp_mobilenet_v3_large
"""
MODELS = [f"timm/{n}" for n in TIMM.split()] + [f"torchvision/{n}" for n in TORCHVISION.split()]
EXACT = 1e-9
SMALL = 0.4  # of the parameters
PEER_SECONDS, PEER_BYTES = 30, 14 * 2**30


def measure(name: str, peer: bool) -> dict[str, Any]:
    """All figures of one model; what fails is said in ``errors``."""
    torch.manual_seed(0)
    row: dict[str, Any] = {"model": name, "errors": {}}
    try:
        arch = resolve(name)
        model = randomise(arch.build("cpu"))
        size = arch.default_input_size()
        row["parameters"] = sum(p.numel() for p in model.parameters())
        start = time.perf_counter()
        trace = trace_model(model, size)
        row["trace_seconds"] = time.perf_counter() - start
    except Exception as error:
        row["errors"]["trace"] = repr(error)[:200]
        return row
    row["cliques"] = len(trace.cliques)
    row["share"] = trace.share_governed()
    row["refused"] = sorted({f"{r.op} in {r.module}" for r in trace.refusals})
    try:
        row["permute_error"], row["moved"] = permutation_error(model, trace, size)
    except Exception as error:
        row["errors"]["permute"] = repr(error)[:200]
    try:
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            row |= vars(resize(model, trace, size, Path(folder) / "half.safetensors"))
            row["resize_seconds"] = time.perf_counter() - start
    except Exception as error:
        row["errors"]["resize"] = repr(error)[:200]
    if peer:
        row |= measure_peer(model, size)
    return row


def measure_peer(model: torch.nn.Module, size: tuple[int, ...]) -> dict[str, Any]:
    """Torch-Pruning: seconds for its graph and all its groups, or why it has none.

    In a process of its own with a limit on memory and time: some networks exhaust both.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_run_peer, args=(model, size, sender))
    child.start()
    sender.close()  # or the end of the child would not be noticed
    told = receiver.poll(PEER_SECONDS)
    result: dict[str, Any] = {"peer_error": f"no answer within {PEER_SECONDS} s"}
    if told:
        try:
            result = receiver.recv()
        except EOFError:
            result = {"peer_error": "the process died"}
    child.kill()
    child.join()
    return result


def _run_peer(model: torch.nn.Module, size: tuple[int, ...], sender: Any) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (PEER_BYTES, PEER_BYTES))
    example = torch.randn(1, *size)
    model.requires_grad_(True)  # its graph is that of autograd
    try:
        import torch_pruning

        start = time.perf_counter()
        graph = torch_pruning.DependencyGraph().build_dependency(model, example_inputs=example)
        groups = len(list(graph.get_all_groups()))
        sender.send({"peer_seconds": time.perf_counter() - start, "peer_groups": groups})
    except BaseException as error:
        sender.send({"peer_error": repr(error)[:200]})


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How many of the models did what."""
    ratios = [
        r["trace_seconds"] / r["peer_seconds"]
        for r in rows
        if "peer_seconds" in r and "trace_seconds" in r
    ]
    return {
        "models": len(rows),
        "traced": sum("trace" not in r["errors"] for r in rows),
        "permuted_exactly": sum(r.get("permute_error", 1) < EXACT for r in rows),
        "permuted_wrongly": sum(r.get("permute_error", 0) >= EXACT for r in rows),
        "median_share": statistics.median(r.get("share", 0) for r in rows),
        "share_above_0.99": sum(r.get("share", 0) > 0.99 for r in rows),
        "resized": sum(resized(r) for r in rows),
        "exact_at_width_1": sum(bool(r.get("exact_at_full")) for r in rows),
        "peer_traced": sum("peer_seconds" in r for r in rows),
        "median_seconds": statistics.median(r.get("trace_seconds", 0) for r in rows),
        "median_ratio_to_peer": statistics.median(ratios) if ratios else None,
    }


def resized(row: dict[str, Any]) -> bool:
    """Whether a model became small, or as small as its outputs let it, and works."""
    small = row.get("parameters_left", 1) <= SMALL or row.get("held") == 0
    return bool(row.get("same_outputs") and row.get("reloads") and small)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", default="*", help="pattern of model names")
    parser.add_argument("--skip", default="", help="pattern of names to leave out")
    parser.add_argument("--part", default="1/1", help="i/n: every n-th model from the i-th on")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--json", type=Path, help="an unfinished table is gone on with")
    parser.add_argument("--merge", type=Path, nargs="*", help="tables to join; measures nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)  # a pool of threads would not survive the fork for the peer
    first, step = map(int, options.part.split("/"))
    rows: list[dict[str, Any]] = []
    if options.merge:
        for path in options.merge:
            rows += json.loads(path.read_text())["rows"]
        rows.sort(key=lambda r: MODELS.index(r["model"]))
    else:
        chosen = [n for n in MODELS if fnmatch(n, options.only) and not fnmatch(n, options.skip)][
            first - 1 :: step
        ]
        measure("timm/test_vit", not options.no_peer)  # what first calls load is no model's time
        if options.json and options.json.exists():  # go on where it was stopped
            rows = json.loads(options.json.read_text())["rows"]
        for name in [n for n in chosen if n not in {r["model"] for r in rows}]:
            print(name, file=sys.stderr, flush=True)
            rows.append(measure(name, not options.no_peer))
            gc.collect()
            if options.json:
                write(options.json, rows)
    if options.json:
        write(options.json, rows)
    show(rows)


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    document = {"summary": summary(rows), "threads": torch.get_num_threads(), "rows": rows}
    path.write_text(json.dumps(document, indent=1))


def show(rows: list[dict[str, Any]]) -> None:
    """A table of all models, and the summary."""
    table = Table(title="trace, permute and resize")
    for column in ("model", "share", "permute error", "left at 0.5", "held", "seconds", "peer"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for r in rows:
        table.add_row(
            r["model"],
            f"{r.get('share', 0):.3f}",
            f"{r.get('permute_error', float('nan')):.0e}",
            f"{r.get('parameters_left', float('nan')):.3f}",
            f"{r.get('held', '–')}/{r.get('cliques', '–')}",
            f"{r.get('trace_seconds', float('nan')):.2f}",
            f"{r['peer_seconds']:.2f}" if "peer_seconds" in r else "fails",
        )
    console = Console(width=120)
    console.print(table)
    for key, value in summary(rows).items():
        console.print(f"{key}: {value}")


if __name__ == "__main__":
    main()
