"""What casts doubt on the figures of a comparison: other work on the machine, clocks that change, unsteady times."""

from collections.abc import Iterator, Sequence

from toolkit.benchmarking.conditions import Conditions, GpuConditions
from toolkit.comparison.records.row import Row
from toolkit.machine import usable_cores

BUSY_SHARE = 0.15
"""Other work on more than this share of the cores is worth a warning."""

STOLEN_SHARE = 0.02
"""So is a larger share of their time than this that went to other virtual machines."""

CLOCK_SPREAD = 1.1
"""And clocks of which the fastest is more than this many times the slowest."""

UNSTEADY = 1.5
"""And a p95 above this many medians."""

_GPU_BUSY = 0.5
"""A GPU that was idle for half of the time lowers its clocks for that, and says nothing by it."""

_SHOWN = 4


def warnings_of(
    rows: Sequence[Row], busy: float | None, conditions: Conditions | None = None, cores: float | None = None
) -> tuple[str, ...]:
    """One line for each reason to measure again.

    Args:
        rows: what was measured.
        busy: cores' worth of other work on the machine just before; None where unknown.
        conditions: what was seen while it was timed.
        cores: how many cores there are; None takes those of this machine.
    """
    cores = cores or usable_cores()
    found = []
    watched = conditions is not None and conditions.other_load is not None
    if busy is not None and busy > BUSY_SHARE * cores and not watched:
        found.append(f"other work kept {busy:.1f} of {cores:g} cores busy before the measuring: times may be off")
    if conditions is not None:
        found += _of_machine(conditions, cores)
        for gpu in conditions.gpus:
            found += _of_gpu(gpu)
    unsteady = [
        f"{row.name} at batch {batch}"
        for row in rows
        for batch, speed in row.speeds.items()
        if speed.timing.p95 > UNSTEADY * speed.timing.p50
    ]
    if unsteady:
        shown = ", ".join(unsteady[:_SHOWN]) + (" and others" if len(unsteady) > _SHOWN else "")
        found.append(f"times vary widely (p95 over {UNSTEADY:g} x the median): {shown}")
    return tuple(found)


def _of_machine(conditions: Conditions, cores: float) -> Iterator[str]:
    load = conditions.other_load
    if load is not None and load.median > BUSY_SHARE * cores:
        yield (
            f"other work kept {load.median:.1f} of {cores:g} cores busy during the timing, {load.maximum:.1f} at most"
            f" (more than {BUSY_SHARE:.0%} of them is too much): latencies are too long, ratios less so"
        )
    if conditions.stolen is not None and conditions.stolen > STOLEN_SHARE:
        yield (
            f"the hypervisor gave {conditions.stolen:.1%} of the cores' time to other machines "
            f"(more than {STOLEN_SHARE:.0%} is too much)"
        )
    if conditions.throttled:
        times = "once" if conditions.throttled == 1 else f"{conditions.throttled} times"
        yield f"the CPU was slowed {times} during the timing, by heat or by a container's quota"
    clock = conditions.cpu_mhz
    if clock is not None and clock.maximum > CLOCK_SPREAD * clock.minimum:
        yield (
            f"the CPU's clock varied from {clock.minimum:.0f} to {clock.maximum:.0f} MHz during the timing "
            f"(by more than {CLOCK_SPREAD - 1:.0%}): set the governor 'performance'"
        )


def _of_gpu(gpu: GpuConditions) -> Iterator[str]:
    name = f"GPU {gpu.index} ({gpu.name})"
    if gpu.throttle_reasons:
        yield f"{name} held its clocks down: {', '.join(gpu.throttle_reasons)}"
    clock, busy, others = gpu.sm_mhz, gpu.utilisation, gpu.utilisation_others
    worked = busy is not None and busy.median > _GPU_BUSY
    if clock is not None and worked and clock.maximum > CLOCK_SPREAD * clock.median:
        yield (
            f"{name} ran at {clock.median:.0f} MHz mostly and at {clock.maximum:.0f} MHz at best: lock its clocks "
            "(nvidia-smi --lock-gpu-clocks)"
        )
    if others is not None and others.median > BUSY_SHARE:
        yield f"{name} computed for other processes {others.median:.0%} of the time: times are too long"
