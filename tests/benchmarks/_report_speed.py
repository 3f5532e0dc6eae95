"""RESULTS.md's sections on seconds and memory."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

from components.evaluation.protocols import PROTOCOLS
from tests.benchmarks._markdown import Result, amount, table, threads
from tests.benchmarks._plan import PLANNED, SEARCHED


def lightgcn(result: Result) -> Iterator[str]:
    figures = result["figures"]
    yield f"## LightGCN: seconds per epoch against a strong torch script ({threads(figures)})"
    yield ""
    yield "Gowalla, sampled softmax in-batch, 1 layer, d 64, batch 2048, both in one process and without Ray Train. The same"
    yield f"losses; limit {figures['limit']}. The graph is built in {figures['graph_seconds']:.2f} s."
    yield ""
    seconds = figures["seconds_per_epoch"]
    rows = [["script", f"{seconds['script']:.1f}", "1"], ["hardneg", f"{seconds['hardneg']:.1f}", f"{figures['ratio']:.2f}"]]
    if "ray_train" in seconds:
        ratio = seconds["ray_train"] / seconds["script"]
        rows.append(["hardneg, a Ray Train worker", f"{seconds['ray_train']:.1f}", f"{ratio:.2f}"])
    yield from table(["", "seconds per epoch", "ratio"], rows)
    yield ""
    if "ray_train" in seconds:
        yield "The last is the second epoch of a training by ray_jobs.train, after the turns and not among them."
        yield ""
    if "to_recall" in figures:
        wanted = figures["to_recall"]
        rows = [[what, *_until(wanted[what], wanted["recall@20"])] for what in ("script", "hardneg")]
        yield from table([f"to recall@20 {wanted['recall@20']} on test", "recall@20", "seconds of training", "epochs"], rows)
        yield ""
        if all(wanted[what]["recalls"][-1] >= wanted["recall@20"] for what in ("script", "hardneg")):
            verdict = "within" if wanted["ratio"] <= figures["limit"] else "**not within**"
            yield f"{wanted['ratio']:.2f} of the script's seconds, {verdict} the limit."
            yield ""
    rows = [
        [name, f"{part['milliseconds']:.2f}", f"{part['bound']:.2f}", f"{part['milliseconds'] / part['bound']:.2f}"]
        for name, part in figures["parts"].items()
    ]
    yield from table(["part of a step", "ms", "ms of its bound", "ratio"], rows)
    yield ""
    yield "For the reader, measured elsewhere on such a machine: LightGCN-PyTorch builds its graph in 92 s, takes 195 s for an"
    yield "epoch of BPR (3 layers) and 60 s for an evaluation."


def _until(told: dict[str, Any], wanted: float) -> list[str]:
    """The last recall of a training towards one, its seconds and its epochs."""
    last = told["recalls"][-1]
    return [f"{last:.4f}{'' if last >= wanted else ' (**not reached**)'}", f"{told['seconds']:.0f}", str(told["epochs"])]


def costs(result: Result) -> Iterator[str]:
    figures = result["figures"]
    yield f"## What the recipes and the losses cost ({threads(figures)})"
    yield ""
    yield "Steps of each recipe in one process, at its own settings; validation and starting are not counted. Hours are those"
    yield "of all epochs that a recipe may take: most stop early."
    yield ""
    rows = [
        [
            name,
            amount(cost["seconds_per_epoch"]),
            amount(cost["seconds_per_adversarial_pass"]),
            str(cost["epochs"]),
            amount(cost["hours"]),
        ]
        for name, cost in figures["recipes"].items()
    ]
    yield from table(["recipe", "s per epoch", "s per adversarial pass", "epochs at most", "hours at most"], rows)
    yield ""
    yield "The hours that every benchmark of trainings would take, with the changes that it makes to its recipes; which of them"
    yield "were not run stands last on this page."
    yield ""
    rows = [[name, str(cost["trainings"]), amount(cost["hours"])] for name, cost in figures["plan"].items()]
    rows.append(["all", str(sum(cost["trainings"] for cost in figures["plan"].values())), _hours(figures["plan"])])
    yield from table(["benchmark", "trainings, all seeds", "hours at most, one core"], rows)
    yield ""
    if otherwise := planned_since(figures["plan"]):
        yield "These plans came, or changed, since the costs were measured; where one stands in the table, its hours are of the"
        yield f"older plan: {', '.join(otherwise)}."
        yield ""
    yield "And of searches, with what starting and ending a trial takes; where the hours are fixed, trials are as many as fit."
    yield ""
    rows = [
        [name, "" if planned.trials is None else str(planned.trials), amount(planned.hours)]
        for name, planned in SEARCHED.items()
    ]
    rows.append(["all", "", amount(sum(planned.hours for planned in SEARCHED.values()))])
    yield from table(["benchmark", "trials, all seeds", "core-hours expected"], rows)
    yield ""
    yield "A step of 2,048 rows against a shared pool of N items, d 64: its time, and MiB beyond what the process had before."
    yield ""
    counts = list(next(iter(figures["losses"].values())))
    rows = [
        [loss, *(f"{found[count]['milliseconds']:.0f} ms, {found[count]['mib']:.0f} MiB" for count in counts)]
        for loss, found in figures["losses"].items()
    ]
    yield from table(["loss", *(f"N {count}" for count in counts)], rows)


def planned_since(plan: dict[str, Any]) -> list[str]:
    """Benchmarks that are planned with other trainings than a kept plan has, or that it lacks."""
    trainings = {name: planned.seeds * len(planned.trainings) for name, planned in PLANNED.items()}
    return [name for name, number in trainings.items() if number and plan.get(name, {}).get("trainings") != number]


def epoch(result: Result) -> Iterator[str]:
    figures = result["figures"]
    plain, ours, masked = (figures["seconds_per_epoch"][name] for name in ("plain", "hardneg", "hardneg_masked"))
    yield f"## Seconds per epoch against a plain torch loop ({threads(figures)})"
    yield ""
    yield f"MF + SSM on {figures['log']}, d 64, batch 2048, in-batch negatives, {figures['steps_per_epoch']} steps."
    yield ""
    rows = [
        ["plain torch loop", f"{plain:.1f}", "1"],
        ["hardneg, the same loss", f"{ours:.1f}", f"{figures['ratio']:.2f}"],
        ["hardneg, every user's own items masked (the default)", f"{masked:.1f}", f"{figures['ratio_masked']:.2f}"],
    ]
    yield from table(["", "seconds per epoch", "ratio"], rows)
    yield ""
    yield f"Limit {figures['limit']}. Largest difference of a step's loss: {figures['largest_difference_of_losses']:.0e}."


def startup(result: Result) -> Iterator[str]:
    figures = result["figures"]
    yield "## From program start to the first training step"
    yield ""
    rows = [[name, f"{seconds:.1f}"] for name, seconds in figures["median_seconds"].items()]
    yield from table(["", f"median seconds of {figures['repeats']}"], rows)
    yield ""
    yield f"Limit: {figures['limit']} s in total. Two workers, a new Ray and a new MLflow database each time."


def ranking(result: Result) -> Iterator[str]:
    figures = result["figures"]
    yield f"## Full ranking against the bare matrix product and top-k ({threads(figures)})"
    yield ""
    names = {"bare_seconds": "bare product and top-k", "ranked_seconds": "hardneg: masks, exact top-k, metrics"}
    rows = [[text, f"{statistics.median(figures[what]):.2f}"] for what, text in names.items()]
    users = f"{figures['log']}: {figures['users']:,} users, {figures['items']:,} items, d {figures['width']}, K {figures['k']}"
    yield from table([users, f"seconds, median of {len(figures['bare_seconds'])}"], rows)
    yield ""
    low, high = figures["ratio_range"]
    verdict = "within" if figures["within_limit"] else "**not within**"
    yield f"Ratio {figures['ratio_median']:.2f} ({low:.2f} to {high:.2f}), {verdict} the limit of {figures['limit']}."


def recommend(result: Result) -> Iterator[str]:
    figures = result["figures"]
    users = max(figures["runs"], key=int)
    yield f"## Lists for {int(users):,} users out of {figures['items']:,} items ({figures['workers']} workers of one thread)"
    yield ""
    yield f"d {figures['width']}, K {figures['k']}, random vectors, by the actors of `recommend`. Bare is the product and top-k"
    yield f"on {figures['workers']} threads in the same run; starting is apart from users per second and within seconds."
    yield ""
    header = ["users", "users / s", "bare", "ratio", "seconds", "peak GiB", "of it tables"]
    rows = []
    for number, told in figures["runs"].items():
        ours, bare = told["users_per_second"], told["bare_users_per_second"]
        speed = [f"{ours:,.0f}", f"{bare:,.0f}", f"{ours / bare:.2f}", f"{told['seconds']:.0f}"]
        rows.append([f"{int(number):,}", *speed, *(f"{told[what]:.2f}" for what in ("peak_gib", "tables_gib"))])
    yield from table(header, rows)


def negatives(result: Result) -> Iterator[str]:
    figures = result["figures"]
    dense, limits = figures["cross_entropy"], figures["limits"]
    yield f"## Many candidates in tiles against cross entropy on dense scores ({threads(figures)})"
    yield ""
    shape = f"{figures['rows']:,} rows against {figures['candidates']:,} candidates, d {figures['width']}, forward and backward"
    yield f"{shape}; a process each. Allocator: {figures['allocator']}. The last column leaves the candidates out."
    yield ""
    pools = [int(pool) for pool in next(iter(figures["growth"].values()))["whole_mib"]]
    rows = [["cross entropy", f"{dense['seconds']:.2f}", "1", f"{dense['peak_mib']:,.0f}", "1", ""]]
    for loss, told in figures["losses"].items():
        low, high = told["faster_range"]
        faster = f"{told['faster']:.1f} ({low:.1f} to {high:.1f})"
        grown = f"{figures['growth'][loss]['growth']:.2f}"
        rows.append([loss, f"{told['seconds']:.2f}", faster, f"{told['peak_mib']:,.0f}", f"1/{told['smaller']:.1f}", grown])
    growth = f"memory of {max(pools):,} over {min(pools):,}"
    yield from table(["", "seconds", "times as fast", "peak MiB", "of its peak", growth], rows)
    yield ""
    verdict = "Within" if figures["within_limits"] else "**Not within**"
    softmax = f"{limits['faster']} times, 1/{limits['smaller']}"
    yield f"{verdict} the limits: {softmax} (sampled softmax), {limits['growth']} (every loss)."


def scaling(result: Result) -> Iterator[str]:
    figures = result["figures"]
    yield f"## One worker against two, one thread each: global batch {figures['batch']:,}"
    yield ""
    log = "a generated log of Gowalla's size" if figures["log"] == "generated" else figures["log"]
    yield f"Sampled softmax in-batch, d 64, on {log}, over gloo on one machine. Milliseconds of a step; exchange is"
    yield "in collectives, waiting for the other included. One beside another that it does not know is the machine's own bound:"
    yield "its rows are those of both. Times are the median over turns of one worker's seconds by two's, not the ratio of the"
    yield "medians beside it."
    yield ""
    rows = []
    for model, told in figures["models"].items():
        times = {"1": 1.0, "2": told["speedup"]}
        for workers, step in told["workers"].items():
            parts = [f"{1000 * step[what]:.0f}" for what in ("seconds", "compute", "exchange", "data")]
            per_second = figures["batch"] / step["seconds"] * (1 if workers in times else 2)
            sent, faster = f"{step['received'] / 2**20:.1f}", times.get(workers, told["bound"])
            rows.append([model, workers, f"{per_second:,.0f}", f"{faster:.2f}", *parts, sent])
    header = ["model", "workers", "rows / s", "times", "a step, ms", "compute", "exchange", "data", "MiB received"]
    yield from table(header, rows)
    yield ""
    mf = figures["models"]["MF"]
    low, high = mf["speedup_range"]
    verdict = "reached" if low >= figures["limit"] else "reached by the median, not in every turn"
    verdict = verdict if mf["speedup"] >= figures["limit"] else "**not reached**"
    share = mf["speedup"] / mf["bound"]
    yield f"MF at {mf['speedup']:.2f} times ({low:.2f} to {high:.2f} over the turns), {share:.2f} of what the"
    yield f"machine gives to two that share nothing; the target of {figures['limit']} is {verdict}."
    yield ""
    yield "More than two are on paper (`tests.benchmarks.scaling.seconds`): times the rows per second of one worker at the same"
    yield "global batch, from these parts, by what a round and a byte of a ring take; all workers alike, nothing overlapped:"
    yield "an upper bound, as two on paper beside two measured say."
    yield "Where the network is free, what every worker repeats (Adam on whole tables, LightGCN's graph) is the bound."
    yield ""
    counts = list(figures["models"]["MF"]["on_paper"]["a free one"])
    rows = [
        [model, network, *(f"{speedups[count]:.1f}" for count in counts)]
        for model, told in figures["models"].items()
        for network, speedups in told["on_paper"].items()
    ]
    yield from table(["model", "network", *(f"W {count}" for count in counts)], rows)


def catalogue(result: Result) -> Iterator[str]:
    figures = result["figures"]
    yield f"## What {figures['workers']} workers exchange in a step, by the number of items (one thread each)"
    yield ""
    shape = f"MF, d {figures['width']}, global batch {figures['batch']:,}, in-batch negatives and a pool of {figures['pool']:,}"
    yield f"{shape}, over gloo"
    yield "on one machine. Bytes are what a worker receives; the table of items is what does not travel."
    yield ""
    rows = []
    for items, dense in figures["optimizers"]["dense"].items():
        of_item = [each for told in (dense, figures["optimizers"]["lazy"][items]) for each in _of_step(told)]
        rows.append([f"{int(items):,}", f"{int(items) * figures['width'] * 4 / 2**20:,.0f}", *of_item])
    header = ["items", "MiB of their table", "dense Adam: MiB received", "ms a step", "lazy Adam: MiB received", "ms a step"]
    yield from table(header, rows)
    yield ""
    growth = max(figures["growth"].values())
    verdict = "within" if growth <= figures["limit"] else "**not within**"
    yield f"The most bytes over the least: {growth:.3f}, {verdict} the limit of {figures['limit']}."


def _of_step(told: dict[str, float]) -> list[str]:
    return [f"{told['received'] / 2**20:.2f}", f"{1000 * told['seconds']:,.0f}"]


def gpu_train(result: Result) -> Iterator[str]:
    figures = result["figures"]
    goal, device = figures["goal"], figures["device"]
    yield f"## {figures['recipe']} on a GPU: {device}"
    yield ""
    changed = f", with {', '.join(f'`{change}`' for change in figures['changes'])}" if figures["changes"] else ""
    yield f"One process without Ray, torch {figures['torch']}, {figures['precision']}{changed}. Seconds are without validation."
    yield ""
    wanted = "none published" if goal["value"] is None else f"{goal['value']:.4f}"
    numbers = [f"{figures['seconds']:,.0f}", str(figures["epochs"]), f"{figures['seconds_per_epoch']:.3g}"]
    numbers += [f"{figures[what]:,.0f}" for what in ("rows_per_second", "peak_mib", "parameters")]
    header = [f"{goal['metric']} on {goal['split']}", "goal", "s of training", "epochs", "s per epoch", "rows / s", "peak MiB"]
    yield from table([*header, "parameters"], [[f"{figures['best']:.4f}", wanted, *numbers]])
    yield ""
    reached = {True: "Reached", False: "**Not reached**", None: "Trained until validation no longer improved"}[
        figures["reached"]
    ]
    yield f"{reached}. The goal is of {goal['source']}; {PROTOCOLS[goal['protocol']]}."


def _hours(plan: Result) -> str:
    return f"{sum(cost['hours'] for cost in plan.values()):.0f}"


def prepare(result: Result) -> Iterator[str]:
    figures = result["figures"]
    yield "## Preparing a log beside one polars process: dedupe, 10-core, ids, leave-one-out, Parquet"
    yield ""
    yield "Whole programs, Ray's start included; 16 Parquet files of int64 user, item, time. Law of the log:"
    yield f"{figures['law']}. GiB of prepare: the tree's proportional set sizes, looked at twice a second, and in brackets"
    yield "the sum of the kernel's high-water marks, which counts shared pages more than once. Of polars: its exact peak."
    yield ""
    header = ["rows", "prepare, s", "rows / s", "GiB", "polars, s", "rows / s", "GiB", "times polars"]
    rows = []
    for told in figures["runs"]:
        ours, polars, ratio = (told[name] for name in ("prepare", "polars", "times_polars"))
        cells = [f"{ours['total_seconds']:,.1f}", f"{ours['rows_per_second']:,.0f}"]
        cells.append(f"{ours['peak_gib']:.2f} ({ours['bound_gib']:.2f})")
        if ratio is None:
            cells += [polars["ended"], "", f"{polars['peak_gib']:.2f}", ""]
        else:
            cells += [f"{polars['total_seconds']:,.1f}", f"{polars['rows_per_second']:,.0f}", f"{polars['peak_gib']:.2f}"]
            cells.append(f"{ratio:.1f}")
        rows.append([f"{told['log_rows']:,}", *cells])
    yield from table(header, rows)
    yield ""
    if figures["verdicts"]:
        verdicts = [
            [told["what"], f"{told['limit']:g}", f"{told['got']:.2f}", "holds" if told["holds"] else "**does not hold**"]
            for told in figures["verdicts"]
        ]
        yield from table(["limit", "", "measured", ""], verdicts)
        yield ""
    stages = [[f"{told['log_rows']:,}", stage, *_stage_of(told, stage)] for told in figures["runs"] for stage in _stages(told)]
    yield from table(["rows", "stage", "prepare, s", "polars, s", "largest worker, GiB"], stages)
    if figures["nodes"]:
        yield ""
        yield "On several node processes of one CPU each on this machine, the same bytes of the dataset. What is written to the"
        yield "storage path is the shuffle and the dataset; on a shared one it crosses the network, the shuffle once more."
        yield ""
        mib = [[told[name] / 2**20 for name in ("loopback_bytes", "written_bytes")] for told in figures["nodes"]]
        rows = [
            [str(told["nodes"]), f"{told['log_rows']:,}", f"{told['total_seconds']:.1f}", *(f"{size:,.1f}" for size in sizes)]
            for told, sizes in zip(figures["nodes"], mib, strict=True)
        ]
        yield from table(["nodes", "rows", "seconds", "MiB over the loopback", "MiB written to the storage path"], rows)


def prepare_peers(result: Result) -> Iterator[str]:
    figures = result["figures"]
    yield "## Preparing a log beside RecBole's and RePlay's own ways"
    yield ""
    yield "The log and the work of the comparison with polars, whole programs: dedupe, 10-core, ids, leave-one-out, on disk."
    yield "RecBole reads text in its own format, whose making is not counted, and saves all rows, split anew when they are"
    yield "loaded; its samplers and loaders are left out. RePlay runs on polars, which drops the repeats for it."
    yield f"A peer may take {figures['limit_seconds']:,.0f} s."
    yield ""
    rows, stages = [], []
    for told in figures["runs"]:
        ours = told["prepare"]
        rows.append([f"{told['log_rows']:,}", "hardneg", *_seconds_of(told["log_rows"], ours), "1", _left(ours)])
        stages.append([f"{told['log_rows']:,}", "hardneg", _told_stages(ours)])
        for name, peer in told["peers"].items():
            stages.append([f"{told['log_rows']:,}", name, _told_stages(peer)])
            if "ended" in peer:
                rows.append([f"{told['log_rows']:,}", name, f"**{peer['ended']}**", "", f"{peer['peak_gib']:.2f}", "", ""])
                continue
            left = "the same" if peer["rows"] == ours["rows"] else f"**{_left(peer)}**"
            cells = [*_seconds_of(told["log_rows"], peer), f"{peer['times_hardneg']:.1f}", left]
            rows.append([f"{told['log_rows']:,}", name, *cells])
    yield from table(["rows", "", "seconds", "rows / s", "GiB", "times hardneg's seconds", "rows of train, valid, test"], rows)
    yield ""
    yield from table(["rows", "", "seconds of its stages"], stages)
    yield ""
    versions = {
        name: peer["versions"] for told in figures["runs"] for name, peer in told["peers"].items() if "versions" in peer
    }
    for name, found in versions.items():
        yield f"{name}: {', '.join(f'{package} {version}' for package, version in found.items())}."


def _seconds_of(rows: int, one: dict[str, Any]) -> list[str]:
    return [f"{one['total_seconds']:,.1f}", f"{rows / one['total_seconds']:,.0f}", f"{one['peak_gib']:.2f}"]


def _left(one: dict[str, Any]) -> str:
    return ", ".join(f"{one['rows'][split]:,.0f}" for split in ("train", "valid", "test"))


def _told_stages(one: dict[str, Any]) -> str:
    return ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in one.get("seconds", {}).items())


def _stages(told: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys([*told["prepare"]["seconds"], *told["polars"].get("seconds", {})]))


def _stage_of(told: dict[str, Any], stage: str) -> list[str]:
    seconds = (told[name].get("seconds", {}).get(stage) for name in ("prepare", "polars"))
    worker = told["prepare"]["worker_gib"].get(stage)
    return ["" if value is None else f"{value:.1f}" for value in seconds] + ["" if worker is None else f"{worker:.2f}"]


def feeding(result: Result) -> Iterator[str]:
    figures = result["figures"]
    rates = figures["rows_per_second"]
    yield f"## Feeding training from the memory-mapped global order ({threads(figures)})"
    yield ""
    yield f"{figures['rows']:,} rows, batches of {figures['batch']:,}, whole epochs with the drawing of their order; MF + SSM"
    yield f"(d {figures['width']}, in-batch) on the same rows. Making a node's cache out of Parquet is done once."
    yield ""
    names = {"cache": "making the cache", "cold": "an epoch, cold", "warm": "an epoch, warm", "mf_ssm": "MF + SSM takes"}
    rows = [[text, f"{rates[name]:,.0f}", f"{rates[name] / rates['mf_ssm']:.1f}"] for name, text in names.items()]
    yield from table(["", "rows / s", "times what MF + SSM takes"], rows)
