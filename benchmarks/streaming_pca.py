"""Streamed PCA against scikit-learn's IncrementalPCA and PCA(svd_solver="randomized"): time, variance and peak memory.

The results are streaming_pca.json, .md and .png in --out. Every measurement runs in its own process, on the same files.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from measuring import keep, measured, peak_bytes, plain_layout, product_rate, run_part
from sklearn.decomposition import PCA, IncrementalPCA

from w2wpp.files.errors import InputError
from w2wpp.files.storage import write_atomically
from w2wpp.lora.shards import Shards, open_shards, write_shards
from w2wpp.lora.statistics import standardise_shards
from w2wpp.report.tables import markdown_table
from w2wpp.spaces.streaming_pca import fit_streaming_pca

POWER_ITERATIONS = (0, 1, 2, 3, 4)
OVERSAMPLING = 32
GENERATED = 512  # rows generated and written at a time
EQUAL = 1e-3  # relative difference of equal variances
TITLES = {
    "incremental": "scikit-learn IncrementalPCA",
    "randomized": "scikit-learn PCA, randomized, all in memory",
    **{f"streaming-{count}": f"streamed, power iterations: {count}" for count in POWER_ITERATIONS},
}
AXES = {"rows": "N (rows)", "dimension": "d (numbers in a row)", "components": "k (components)"}


def write_synthetic(folder: Path, rows: int, dimension: int, components: int) -> None:
    """float16 rows whose variances fall as 1 / i over 4 k directions, with a tenth of noise on top."""
    generator = torch.Generator().manual_seed(0)
    rank = min(4 * components, dimension)
    mixing = torch.randn(rank, dimension, generator=generator) / torch.arange(1, rank + 1).sqrt()[:, None]

    def blocks() -> Iterator[torch.Tensor]:
        for start in range(0, rows, GENERATED):
            size = min(GENERATED, rows - start)
            noise = torch.randn(size, dimension, generator=generator)
            yield (torch.randn(size, rank, generator=generator) @ mixing + 0.1 * noise + 1).half()

    write_shards(folder, blocks(), plain_layout(dimension), max(1, rows // 8))


def z_scores(shards: Shards, mean: torch.Tensor, std: torch.Tensor, rows: int) -> Iterator[torch.Tensor]:
    """float32 z-scores [rows, d], block by block."""
    for block in shards.blocks(rows):
        yield torch.sub(block, mean).div_(std)


def captured(shards: Shards, mean: torch.Tensor, std: torch.Tensor, components: torch.Tensor) -> float:
    """Share of the variance of all z-scores that lies in the span of orthonormal components [k, d]."""
    inside = total = 0.0
    for block in z_scores(shards, mean, std, GENERATED):
        inside += (block @ components.T).double().square().sum().item()
        total += block.double().square().sum().item()
    return inside / total


def measure(method: str, folder: Path, components: int) -> dict:
    """Wall-clock seconds, peak memory and captured variance of one method; z-scoring is part of each."""
    if method == "rate":
        return {"rate": product_rate(), "threads": torch.get_num_threads()}
    shards = open_shards(folder)
    imports = peak_bytes()
    with measured() as statistics:
        mean, std = standardise_shards(shards)
    with measured() as run:
        found = fitted(method, shards, mean, std, components)
    return {
        "seconds": statistics["seconds"] + run["seconds"],
        "cpu_seconds": statistics["cpu_seconds"] + run["cpu_seconds"],
        "statistics_seconds": statistics["seconds"],
        "peak_bytes": max(statistics["peak_bytes"], run["peak_bytes"]),
        "imports_bytes": imports,
        "variance": captured(shards, mean, std, found),
    }


def fitted(method: str, shards: Shards, mean: torch.Tensor, std: torch.Tensor, components: int) -> torch.Tensor:
    """Components [k, d] by a method."""
    if method == "incremental":
        # With twice k rows at a time, the work per row is about least.
        solver = IncrementalPCA(components)
        for block in z_scores(shards, mean, std, 2 * components):
            solver.partial_fit(block.numpy())
        return torch.from_numpy(solver.components_).float()
    if method == "randomized":
        everything = torch.cat(list(z_scores(shards, mean, std, len(shards))))
        solver = PCA(components, svd_solver="randomized", random_state=0).fit(everything.numpy())
        return torch.from_numpy(solver.components_)
    count = int(method.removeprefix("streaming-"))
    space, _ = fit_streaming_pca(shards, mean, std, components, 0, oversampling=OVERSAMPLING, power_iterations=count)
    return space.components


def apart(method: str, folder: Path, components: int) -> dict:
    """`measure` in a process of its own."""
    print(method, *([folder.name, components] if method != "rate" else []), file=sys.stderr)
    arguments = ["--measure", method, "--folder", str(folder), "--components", str(components)]
    result = run_part(__file__, arguments, folder.parent / "log.txt", 3600)
    if "failed" in result:
        raise InputError(method, None, result["failed"], "Give smaller sizes")
    return result


def operations(rows: int, dimension: int, components: int, power_iterations: int) -> int:
    """Floating-point operations of the products with the data."""
    return 4 * (power_iterations + 1) * rows * dimension * min(components + OVERSAMPLING, rows, dimension)


def benchmark(rows: int, dimension: int, components: int, scratch: Path) -> dict:
    """All measurements on one synthetic file set, then measurements of scaling."""

    def files(n: int, d: int) -> Path:
        folder = scratch / f"{n}x{d}"
        if not folder.exists():
            write_synthetic(folder, n, d, components)
        return folder

    machine = apart("rate", scratch / "rate", components)
    methods = {method: apart(method, files(rows, dimension), components) for method in TITLES}
    for count in POWER_ITERATIONS:
        run = methods[f"streaming-{count}"]
        run["share_of_rate"] = operations(rows, dimension, components, count) / run["seconds"] / machine["rate"]

    enough = (1 - EQUAL) * methods["incremental"]["variance"]
    equal = [f"streaming-{count}" for count in POWER_ITERATIONS if methods[f"streaming-{count}"]["variance"] >= enough]
    chosen = min(equal, key=lambda method: methods[method]["seconds"], default=f"streaming-{POWER_ITERATIONS[-1]}")

    full, growth = {"rows": rows, "dimension": dimension, "components": components}, []
    for axis in full:
        for part in (4, 2, 1):
            point = full | {axis: full[axis] // part}
            run = (
                methods[chosen]
                if part == 1
                else apart(chosen, files(point["rows"], point["dimension"]), point["components"])
            )
            growth.append({"axis": axis, **point, "seconds": run["seconds"], "peak_bytes": run["peak_bytes"]})
    speed, share = methods["incremental"]["seconds"] / methods[chosen]["seconds"], methods[chosen]["share_of_rate"]
    return {
        "settings": full | {"oversampling": OVERSAMPLING, "shards_bytes": 2 * rows * dimension},
        "machine": machine,
        "methods": methods,
        "growth": growth,
        "chosen": chosen,
        "targets": {
            "speed_up_over_incremental": {
                "target": 5.0,
                "value": speed,
                "equal_variance": bool(equal),
                "met": bool(equal) and speed >= 5,
            },
            "share_of_product_rate": {"target": 0.5, "value": share, "met": share >= 0.5},
        },
    }


def exponents(growth: list[dict]) -> dict[str, float]:
    """a in seconds ~ size^a along each axis, from least squares in logarithms."""
    result = {}
    for axis in AXES:
        points = [(point[axis], point["seconds"]) for point in growth if point["axis"] == axis]
        result[axis] = float(np.polyfit(*np.log(np.array(points).T), 1)[0])
    return result


def markdown(result: dict) -> str:
    """The tables, and whether the targets are met."""
    settings, machine, methods = result["settings"], result["machine"], result["methods"]
    chosen, count = methods[result["chosen"]], int(result["chosen"].removeprefix("streaming-"))
    speed, rate = (result["targets"][key] for key in ("speed_up_over_incremental", "share_of_product_rate"))
    products = operations(*(settings[axis] for axis in AXES), count) / machine["rate"]
    powers = exponents(result["growth"])

    def mebibytes(size: float) -> str:
        return f"{size / 2**20:,.0f}"

    def verdict(each: dict) -> str:
        return f"target {each['target']:g}: {'met' if each['met'] else 'missed'}"

    rows = [
        (
            title,
            f"{methods[method]['seconds']:.2f}",
            f"{methods[method]['variance']:.5f}",
            mebibytes(methods[method]["peak_bytes"]),
            f"{share:.2f}" if (share := methods[method].get("share_of_rate")) else "",
        )
        for method, title in TITLES.items()
    ]
    titles = ["method", "seconds", "variance captured", "peak memory (MiB)", "share of the product rate"]
    lines = [
        "# Streamed PCA",
        "",
        f"N = {settings['rows']:,} rows of d = {settings['dimension']:,} float16 numbers "
        f"({mebibytes(settings['shards_bytes'])} MiB), k = {settings['components']:,}; synthetic, variances falling as "
        f"1 / i. Threads: {machine['threads']}; {machine['rate'] / 1e9:.0f} GFLOP/s in float32 matrix products. "
        "Seconds include the pass for means and deviations; memory includes "
        f"{mebibytes(chosen['imports_bytes'])} MiB of imports.",
        "",
        *markdown_table(titles, rows),
    ]
    lines += [
        "",
        f"- {speed['value']:.1f} times as fast as IncrementalPCA ({verdict(speed)}), with power "
        f"iterations: {count}, "
        + (
            "the fastest to capture as much variance."
            if speed["equal_variance"]
            else f"but no number of them tried captures as much variance (within {EQUAL:g})."
        ),
        f"- {rate['value']:.2f} of what the product rate allows ({verdict(rate)}): of {chosen['seconds']:.2f} s, the "
        f"products at that rate would take {products:.2f} and means and deviations took "
        f"{chosen['statistics_seconds']:.2f}; reading, z-scoring and orthonormalising took the rest.",
        "",
        *markdown_table(
            ["grows", "N", "d", "k", "seconds", "peak memory (MiB)", "seconds grow as"],
            [
                (
                    AXES[point["axis"]],
                    *(f"{point[axis]:,}" for axis in AXES),
                    f"{point['seconds']:.2f}",
                    mebibytes(point["peak_bytes"]),
                    f"size^{powers[point['axis']]:.2f}",
                )
                for point in result["growth"]
            ],
        ),
    ]
    return "\n".join(lines) + "\n\n![Time by N, d and k](streaming_pca.png)\n"


def plot(result: dict) -> Figure:
    """Seconds by N, d and k, on logarithmic axes, with the line of proportional growth."""
    figure = Figure(figsize=(9, 3), layout="constrained")
    for axes, (axis, label) in zip(figure.subplots(1, 3, sharey=True), AXES.items(), strict=True):
        points = [point for point in result["growth"] if point["axis"] == axis]
        sizes, seconds = [point[axis] for point in points], [point["seconds"] for point in points]
        axes.loglog(sizes, seconds, "o-", color="#0072B2", base=2, label="streamed PCA")
        axes.loglog(
            sizes,
            [seconds[-1] * size / sizes[-1] for size in sizes],
            ":",
            color="#6f6f6f",
            base=2,
            label="proportional",
        )
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes], minor=False)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_xlabel(label)
    figure.axes[0].set_ylabel("seconds")
    figure.axes[0].legend(frameon=False)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--rows", type=int, default=8192, help="N, a multiple of 4")
    parser.add_argument("--dimension", type=int, default=8192, help="d, a multiple of 4")
    parser.add_argument("--components", type=int, default=256, help="k, a multiple of 4")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of the results")
    parser.add_argument("--measure", choices=["rate", *TITLES], help="print one measurement of --folder and stop")
    parser.add_argument("--folder", type=Path, help="shards for --measure")
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure, args.folder, args.components)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        result = benchmark(args.rows, args.dimension, args.components, Path(scratch))
    write_atomically(args.out / "streaming_pca.png", lambda path: plot(result).savefig(path, format="png", dpi=110))
    keep(args.out, "streaming_pca", result, markdown(result))


if __name__ == "__main__":
    main()
