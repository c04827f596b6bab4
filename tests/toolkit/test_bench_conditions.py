"""What is recorded of a machine while it measures: by the real /proc, and by planted files where it tells nothing."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.nvml import GpuSample
from toolkit.benchmarking.conditions import Conditions, GpuConditions, Spread, Watch
from toolkit.benchmarking.host import Host
from toolkit.machine import Machine, _caches, describe

LINUX = pytest.mark.skipif(not Path("/proc/stat").exists(), reason="needs Linux's counters")
BURN = "import os, time\nwhile sum(os.times()[:2]) < float({seconds}): pass"


def put(root, path, text):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def stat(*cores):
    """/proc/stat of cores with (user, idle, steal) ticks."""
    lines = [f"cpu{n} {user} 0 0 {idle} 0 0 0 {steal} 0 0" for n, (user, idle, steal) in enumerate(cores)]
    return "\n".join(["cpu 1 2 3 4 5 6 7 8 9 10", *lines, "intr 1 2 3", "ctxt 4"]) + "\n"


def process(root, pid, ticks, children=(), name="a (strange) name"):
    user, system, dead_user, dead_system = ticks
    put(
        root, f"proc/{pid}/stat", f"{pid} ({name}) S 1 1 1 0 -1 0 0 0 0 0 {user} {system} {dead_user} {dead_system} 0"
    )
    put(root, f"proc/{pid}/task/{pid}/children", " ".join(map(str, children)))


class TestHost:
    def test_only_the_cores_that_may_be_used_count(self, tmp_path):
        put(tmp_path, "proc/stat", stat((100, 200, 50), (1000, 2000, 500), (7, 7, 7)))
        found = Host(tmp_path, cores=(0, 1)).cpu_time()
        assert (found.busy, found.stolen, found.total) == (11.0, 5.5, 38.5)

    def test_a_process_counts_with_its_children_alive_and_ended(self, tmp_path):
        process(tmp_path, 5, (100, 50, 25, 25), children=(6, 7))
        process(tmp_path, 6, (10, 0, 0, 0), children=(8,))
        process(tmp_path, 7, (1, 0, 0, 0))
        process(tmp_path, 8, (1000, 0, 0, 0))
        host = Host(tmp_path, cores=(0,))
        assert host.family([5]) == {5, 6, 7, 8}
        assert host.family([6, 404]) == {6, 8, 404}
        assert host.process_time(host.family([5, 6])) == pytest.approx(12.11), "none counts twice"
        assert host.process_time([404]) == 0.0

    def test_clocks_come_from_cpufreq_where_there_is_one_else_from_cpuinfo(self, tmp_path):
        put(tmp_path, "proc/cpuinfo", "processor: 0\ncpu MHz\t\t: 2000.5\nprocessor: 1\ncpu MHz\t\t: 3000.5\n")
        assert Host(tmp_path, cores=(0, 1)).mhz() == 2500.5
        put(tmp_path, "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "1200000\n")
        assert Host(tmp_path, cores=(0, 1)).mhz() == 1200.0

    @pytest.mark.parametrize(
        ("cgroup", "where"),
        [
            ("0::/user.slice/job\n", "sys/fs/cgroup/user.slice/job/cpu.stat"),
            ("0::/\n", "sys/fs/cgroup/cpu.stat"),
            ("4:cpu,cpuacct:/box\n1:name=systemd:/\n", "sys/fs/cgroup/cpu/box/cpu.stat"),
            ("4:cpu,cpuacct:/not/seen/inside\n", "sys/fs/cgroup/cpu/cpu.stat"),
        ],
    )
    def test_a_quota_that_held_it_is_found_by_either_version_of_control_groups(self, tmp_path, cgroup, where):
        put(tmp_path, "proc/self/cgroup", cgroup)
        host = Host(tmp_path, cores=(0,))
        assert host.throttled() is None
        put(tmp_path, where, "usage_usec 5\nnr_periods 9\nnr_throttled 3\nthrottled_usec 7\n")
        assert host.throttled() == 3

    def test_heat_counts_each_core_and_the_package_once(self, tmp_path):
        for core in (0, 1):
            folder = f"sys/devices/system/cpu/cpu{core}/thermal_throttle"
            put(tmp_path, f"{folder}/core_throttle_count", "2\n")
            put(tmp_path, f"{folder}/package_throttle_count", "5\n")
        assert Host(tmp_path, cores=(0, 1)).throttled() == 9
        for core in (0, 1):
            put(tmp_path, f"sys/devices/system/cpu/cpu{core}/thermal_throttle/core_throttle_count", "0\n")
            put(tmp_path, f"sys/devices/system/cpu/cpu{core}/thermal_throttle/package_throttle_count", "0\n")
        assert Host(tmp_path, cores=(0, 1)).throttled() == 0, "counted, and none: that isn't unknown"

    def test_a_system_that_tells_nothing_leaves_everything_unknown(self, tmp_path):
        host = Host(tmp_path, cores=(0,))
        assert (host.cpu_time(), host.mhz(), host.throttled(), host.process_time([1])) == (None, None, None, 0.0)
        put(tmp_path, "proc/stat", "cpu0 1 2 3\n")
        assert host.cpu_time() is None


@dataclass
class Script:
    """A machine whose counters are played back, one set a look."""

    busy: list
    own: list
    stolen: list = field(default_factory=lambda: [0.0])
    held: list = field(default_factory=lambda: [3, 3])
    looks: int = -1

    def cpu_time(self):
        from toolkit.benchmarking.host import CpuTime

        self.looks += 1
        at = min(self.looks, len(self.busy) - 1)
        return CpuTime(self.busy[at], self.stolen[min(at, len(self.stolen) - 1)], 10.0 + self.busy[at] * 2)

    def family(self, pids):
        return frozenset(pids)

    def children(self, pid):
        return []

    def process_time(self, pids):
        assert os.getpid() in pids
        return self.own[min(self.looks, len(self.own) - 1)]

    def mhz(self):
        return 2000.0

    def throttled(self):
        return self.held.pop(0)


def look(watch, at):
    """One look at a moment of our choosing, as the thread takes one."""
    watch._take()
    watch._samples[-1] = type(watch._samples[-1])(at, *list(vars(watch._samples[-1]).values())[1:])


class TestWatch:
    def test_others_load_is_what_was_busy_and_not_ours(self):
        watch = Watch(host=Script([0.0, 2.0, 3.0, 3.0], [0.0, 1.5, 1.5, 2.0], stolen=[0, 0, 0, 0.64]))
        for moment in range(4):
            look(watch, float(moment))
        found = watch.result()
        assert found.other_load == Spread(0.0, 0.5, 1.0), "ours counted after theirs is no negative load"
        assert found.seconds == 3.0
        assert found.stolen == pytest.approx(0.64 / 6)
        assert found.cpu_mhz == Spread(2000.0, 2000.0, 2000.0)

    def test_two_looks_close_together_tell_no_load(self):
        watch = Watch(host=Script([0.0, 5.0], [0.0, 0.0]))
        look(watch, 0.0)
        look(watch, 0.05)
        assert watch.result().other_load is None

    def test_throttling_is_counted_from_its_beginning_to_its_end(self):
        with Watch(host=Script([0.0], [0.0], held=[3, 8]), gpus=lambda: None) as watch:
            pass
        assert watch.result().throttled == 5
        assert watch.result() == watch.result()

    def test_gpus_are_summed_up_and_closed(self):
        class Driver:
            closed = False
            looks = 0

            def sample(self, own):
                assert own == {os.getpid(), 77}
                self.looks += 1
                reasons = ("the power limit",) if self.looks == 2 else ()
                return (GpuSample(0, "NVIDIA H200", 1000.0 * self.looks, None, 50.0, 0.5, None, self.looks, reasons),)

            def close(self):
                self.closed = True

        driver = Driver()
        with Watch(lambda: [77], host=Script([0.0], [0.0]), gpus=lambda: driver, interval=60) as watch:
            watch._take()
            watch._take()
        (gpu,) = watch.result().gpus
        assert gpu.sm_mhz == Spread(1000.0, 2000.0, 3000.0)
        assert (gpu.temperature_c, gpu.power_w) == (None, Spread(50.0, 50.0, 50.0))
        assert (gpu.other_processes, gpu.throttle_reasons) == (3, ("the power limit",))
        assert driver.closed

    @LINUX
    def test_on_this_machine_a_process_of_ours_is_not_others_load_and_another_is(self):
        """Other programs may run beside the test: what is told apart is one process's work, ours or not."""

        def watched(command):
            with Watch(gpus=lambda: None) as watch, subprocess.Popen(command, stdout=subprocess.PIPE) as process:
                process.stdout.read()  # until all that hold the pipe have ended
            first, last = watch._samples[0], watch._samples[-1]
            return last.cpu.busy - first.cpu.busy, last.own - first.own, watch.result().other_load

        burn = [sys.executable, "-c", BURN.format(seconds=1.0)]
        busy, ours, _ = watched(burn)
        assert busy > 0.7
        assert 0.7 < ours < 2.0
        # The shell has ended at once, so that what it has started is nobody's child here.
        busy, ours, load = watched(["sh", "-c", f'"{burn[0]}" -c "{burn[2]}" & exit 0'])
        assert busy > 0.7
        assert ours < 0.5
        assert load.maximum > 0.1

    @LINUX
    def test_a_process_that_ends_is_not_taken_for_others_load(self):
        """Its time moves to its owner's ended children: what is ours never goes down."""
        process = subprocess.Popen([sys.executable, "-c", BURN.format(seconds=0.4)])
        watch = Watch()
        watch._take()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        watch._take()
        process.wait()
        watch._take()
        first, ended, collected = (sample.own for sample in watch._samples)
        assert first <= ended <= collected
        assert ended - first > 0.3


spreads = st.none() | st.tuples(*[st.floats(0, 1e6)] * 3).map(lambda three: Spread(*sorted(three)))
gpu_conditions = st.builds(
    GpuConditions, st.integers(0, 7), st.text(max_size=8), *[spreads] * 5, st.none() | st.integers(0, 9),
    st.lists(st.text(max_size=8), max_size=2).map(tuple),
)  # fmt: skip
conditions = st.builds(
    Conditions, st.floats(0, 1e5), spreads, st.none() | st.floats(0, 1), spreads, st.none() | st.integers(0, 99),
    st.lists(gpu_conditions, max_size=2).map(tuple),
)  # fmt: skip


@given(conditions)
def test_conditions_survive_their_json(value):
    assert Conditions.from_json(json.loads(json.dumps(value.to_json(), allow_nan=False))) == value


class TestMachine:
    def test_it_survives_its_json_and_newer_facts_are_ignored(self):
        here = describe()
        written = json.loads(json.dumps(here.to_json()))
        assert Machine.from_json(written) == here
        assert Machine.from_json(written | {"moons": 2}) == here

    def test_a_record_without_the_newer_facts_is_read(self):
        written = describe().to_json()
        del written["caches"], written["virtual"]
        assert (Machine.from_json(written).caches, Machine.from_json(written).virtual) == ({}, None)

    def test_caches_are_those_of_data_in_bytes(self, tmp_path):
        for index, (level, kind, size) in enumerate(
            [(1, "Data", "48K"), (1, "Instruction", "32K"), (2, "Unified", "2048K"), (3, "Unified", "30M")]
        ):
            for name, text in (("level", level), ("type", kind), ("size", size)):
                put(tmp_path, f"index{index}/{name}", f"{text}\n")
        assert _caches(tmp_path) == {"L1": 48 << 10, "L2": 2 << 20, "L3": 30 << 20}
        assert _caches(tmp_path / "none") == {}
