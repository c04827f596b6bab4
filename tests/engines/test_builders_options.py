"""Profiles and options: what can be written, and which library honours what."""

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from engines.builders.capabilities import CAPABILITIES, TITLES, capability_lines
from engines.builders.options import BuildOptions, check_options
from engines.builders.profiles import Profile, Range, fit_profiles, parse_profile, parse_profiles, profiles_json
from engines.errors import InputError, UnsupportedError
from engines.tensors import TensorSpec
from toolkit.cli import run
from toolkit.cli.build_engine import command

IMAGE = TensorSpec("input", "float32", ("batch", 3, "height", "width"))
FIXED = TensorSpec("input", "float32", (4, 3, 16, 16))


@pytest.mark.parametrize(
    ("text", "ranges"),
    [
        ("1:8:32", {"batch": (1, 8, 32)}),
        ("8", {"batch": (8, 8, 8)}),
        ("batch=1:2:4", {"batch": (1, 2, 4)}),
        ("1:2:4, height=32:64:64,width=48", {"batch": (1, 2, 4), "height": (32, 64, 64), "width": (48, 48, 48)}),
    ],
)
def test_a_profile_is_parsed_and_written_back(text: str, ranges: dict[str, tuple[int, int, int]]) -> None:
    profile = parse_profile(text)
    assert {name: (it.minimum, it.optimum, it.maximum) for name, it in profile.ranges.items()} == ranges
    assert parse_profile(str(profile)) == profile


@pytest.mark.parametrize(
    "text", ["", "1:2", "1:2:3:4", "a:b:c", "-1:2:3", "1:2:3,1:2:3", "=1:2:3", "1.5", "٣", "batch:1:2:3", "1:2:3,"]
)
def test_what_is_no_profile_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_profile(text)
    assert "1:8:32" in caught.value.remedy


@pytest.mark.parametrize("text", ["0:1:2", "2:1:4", "1:8:4", "1:2:9999999999"])
def test_sizes_out_of_order_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="MIN ≤ OPT ≤ MAX"):
        parse_profile(text)


def test_a_profile_gives_the_shapes_of_an_input() -> None:
    profile = parse_profile("1:8:32,height=32:64:96,width=64")
    assert profile.shapes(IMAGE) == ((1, 3, 32, 64), (8, 3, 64, 64), (32, 3, 96, 64))


def test_a_dimension_without_a_range_is_named_with_what_to_write() -> None:
    with pytest.raises(InputError, match="dynamic dimension 'height' without a range") as caught:
        fit_profiles(parse_profiles(["1:8:32"]), [IMAGE])
    assert "--batch 1:8:32,height=MIN:OPT:MAX" in caught.value.remedy


def test_every_input_and_every_profile_gets_its_shapes() -> None:
    inputs = [TensorSpec("a", "float32", ("batch", 2)), TensorSpec("b", "float32", (7,))]
    fitted = fit_profiles(parse_profiles(["1:2:4", "8"]), inputs)
    assert fitted == (
        {"a": ((1, 2), (2, 2), (4, 2)), "b": ((7,), (7,), (7,))},
        {"a": ((8, 2), (8, 2), (8, 2)), "b": ((7,), (7,), (7,))},
    )
    assert profiles_json(fitted)[0] == {"a": [[1, 2], [2, 2], [4, 2]], "b": [[7], [7], [7]]}


def test_nothing_asked_means_1_to_32_where_the_batch_is_dynamic_and_nothing_where_it_is_not() -> None:
    assert fit_profiles((), [TensorSpec("a", "float32", ("batch",))]) == ({"a": ((1,), (8,), (32,))},)
    assert fit_profiles((), [FIXED]) == ()


def test_a_fixed_batch_takes_its_own_size_only() -> None:
    assert fit_profiles(parse_profiles(["4"]), [FIXED]) == ()
    with pytest.raises(InputError, match="no dimension 'batch' of the graph varies") as caught:
        fit_profiles(parse_profiles(["1:4:8"]), [FIXED])
    assert "toolkit export" in caught.value.remedy


def test_a_dimension_that_the_graph_lacks_is_refused() -> None:
    with pytest.raises(InputError, match="no dimension 'depth' of the graph varies"):
        fit_profiles([Profile({"batch": Range(1, 1, 1), "depth": Range(1, 2, 3)})], [IMAGE])


@pytest.mark.parametrize(
    ("options", "backend", "other"),
    [
        (BuildOptions(timing_cache=Path("t.cache")), "tensorrt-rtx", "tensorrt"),
        (BuildOptions(optimization_level=3), "tensorrt-rtx", "tensorrt"),
        (BuildOptions(version_compatible=True), "tensorrt-rtx", "tensorrt"),
        (BuildOptions(hardware_compatibility="ampere_plus"), "tensorrt-rtx", "tensorrt"),
        (BuildOptions(weights_stripped=True), "tensorrt-rtx", "tensorrt"),
        (BuildOptions(weights_stripped=True), "onnxruntime", "tensorrt"),
        (BuildOptions(compute_capabilities=("8.9",)), "tensorrt", "tensorrt-rtx"),
        (BuildOptions(workspace=1 << 30), "onnxruntime", "tensorrt or tensorrt-rtx"),
    ],
)
def test_an_option_that_a_library_would_ignore_is_refused_naming_who_honours_it(
    options: BuildOptions, backend: str, other: str
) -> None:
    with pytest.raises(UnsupportedError, match=f"^{backend} doesn't honour") as caught:
        check_options(options, backend)
    assert caught.value.remedy.endswith(f"--backend {other}")


def test_the_table_of_capabilities_has_every_option_and_no_other() -> None:
    assert set(CAPABILITIES) == {item.name for item in fields(BuildOptions)}
    for name, capability in CAPABILITIES.items():
        assert set(capability.backends) | set(capability.why) <= set(TITLES), name
        assert not set(capability.backends) & set(capability.why), name
        others = set(TITLES) - set(capability.backends)
        assert all(capability.reason(backend) for backend in others), f"{name}: why it can't is not said"


def test_the_command_has_the_flags_of_the_table_and_its_help_says_who_honours_them() -> None:
    flags = {flag: option for option in command.params for flag in option.opts}
    for capability in CAPABILITIES.values():
        shown = getattr(flags[capability.flag], "help", "")
        assert capability.only in shown
    assert flags["--weights-stripped"].help.endswith("(TensorRT only).")
    assert flags["--compute-capability"].help.endswith("(TensorRT for RTX only).")
    assert CAPABILITIES["tf32"].only == ""


def test_doctor_shows_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    run(["doctor"])
    shown = capsys.readouterr().out
    assert [line for line in capability_lines() if line not in shown] == []
    assert re.search(r"^--timing-cache +TensorRT$", shown, re.MULTILINE)
    assert re.search(r"^--compute-capability +TensorRT for RTX$", shown, re.MULTILINE)
    run(["doctor", "--json"])
    written = json.loads(capsys.readouterr().out)["build_options"]
    assert written == {name: capability.to_json() for name, capability in CAPABILITIES.items()}


def test_a_capability_is_written_for_people_and_scripts() -> None:
    written = CAPABILITIES["optimization_level"].to_json()
    assert written["backends"] == {"tensorrt": True, "tensorrt-rtx": False, "onnxruntime": False}
    assert "on the target machine" in written["why"]["tensorrt-rtx"]


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx", "onnxruntime"])
def test_the_defaults_suit_every_backend(backend: str) -> None:
    check_options(BuildOptions(), backend)


def test_shared_options_suit_both_libraries() -> None:
    options = BuildOptions(profiles=parse_profiles(["1"]), workspace=1 << 30, tf32=True, allow_partial=True)
    for backend in ("tensorrt", "tensorrt-rtx"):
        check_options(options, backend)


@pytest.mark.parametrize(
    "wrong",
    [
        {"workspace": 512},
        {"optimization_level": 6},
        {"compute_capabilities": ("89",)},
        {"compute_capabilities": ("sm_89",)},
        {"compute_capabilities": ("8.9", "8.9")},
        {"hardware_compatibility": "everything"},
    ],
)
def test_values_that_no_library_takes_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError):
        BuildOptions(**wrong)  # type: ignore[arg-type]


def test_a_passport_gets_the_options_that_were_set() -> None:
    options = BuildOptions(
        profiles=parse_profiles(["1:8:32", "height=64"]), workspace=1 << 30, timing_cache=Path("t.cache")
    )
    assert options.to_json() == {
        "profiles": ["1:8:32", "height=64:64:64"],
        "workspace": 1 << 30,
        "timing_cache": "t.cache",
    }
    assert BuildOptions().to_json() == {}
