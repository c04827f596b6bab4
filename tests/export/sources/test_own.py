"""``--model``: people's own code, and weights laid into it."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from engines.errors import CheckpointError, InputError
from export.checkpoint import load_checkpoint, save_checkpoint
from export.sources import own
from export.sources.description import Description
from tests.export.sources.networks import SIZE, code_in, network, pictures

SMALL = Description(input_size=SIZE)


@pytest.fixture
def code(tmp_path: Path) -> Path:
    return code_in(tmp_path)


def answers(module: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = module(pictures())
    return result


def test_weights_go_into_a_class_of_a_file_that_imports_its_neighbour(code: Path, tmp_path: Path) -> None:
    net = network(width=2, classes=7)
    torch.save({"epoch": 3, "state_dict": nn.DataParallel(net).state_dict()}, tmp_path / "w.pt")
    path, modules = list(sys.path), set(sys.modules)
    checkpoint = load_checkpoint(tmp_path / "w.pt", model=f"{code}:Net(width=2)", describe=SMALL)
    assert torch.equal(answers(checkpoint.module), answers(net))
    assert checkpoint.metadata.architecture == "net.py:Net(width=2)"
    assert len(checkpoint.metadata.labels) == 7, "num_classes is that of the last layer"
    assert checkpoint.metadata.preprocess.channels == 1
    assert not checkpoint.carries_metadata
    assert sys.path == path
    assert "parts" not in set(sys.modules) - modules


def test_two_files_have_neighbours_of_the_same_name(tmp_path: Path) -> None:
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "parts.py").write_text(f"WIDTH = {number}\n")
        text = "from torch import nn\nfrom parts import WIDTH\n\ndef make():\n    return nn.Conv2d(1, WIDTH, 3)\n"
        (folder / "net.py").write_text(text)
    widths = [own.build(f"{tmp_path}/{number}/net.py:make").module.out_channels for number in (1, 2)]
    assert widths == [1, 2]


def test_what_a_forward_imports_is_found_in_its_files_folder_and_by_its_code_alone(tmp_path: Path) -> None:
    text = """
from torch import nn
from parts import Doubled

class Net(nn.Module):
    def forward(self, x):
        import export  # the toolkit's own, whatever lies in this folder
        from parts import Doubled as again
        from late_parts import FACTOR
        assert again is Doubled and export.__file__ == OURS
        return x * FACTOR
"""
    import export

    nets = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "parts.py").write_text("class Doubled: pass\n")
        (folder / "late_parts.py").write_text(f"FACTOR = {number}\n")
        (folder / "export.py").write_text("raise RuntimeError('shadowed')\n")
        (folder / "net.py").write_text(f"OURS = {export.__file__!r}\n{text}")
        nets.append(own.build(f"{folder}/net.py:Net").module)
        assert nets[-1](torch.ones(1)).item() == number
    with pytest.raises(ModuleNotFoundError):
        import another_late_part  # type: ignore[import-not-found]
    (tmp_path / "2" / "another_late_part.py").write_text("")
    with pytest.raises(ModuleNotFoundError):
        import another_late_part  # noqa: F401


def test_a_forward_that_fails_to_import_is_told_in_a_line(tmp_path: Path) -> None:
    text = (
        "from torch import nn\n\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.head = nn.Linear(4, 2)\n    def forward(self, x):\n        import no_such_library\n"
    )
    (tmp_path / "net.py").write_text(text)
    torch.save({"head.weight": torch.zeros(2, 4), "head.bias": torch.zeros(2)}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="ModuleNotFoundError: No module named 'no_such_library'"):
        load_checkpoint(tmp_path / "w.pt", model=f"{tmp_path}/net.py:Net", describe=SMALL)


def test_a_module_of_the_current_folder_is_found(code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code.rename(code.with_name("a_net_of_mine.py"))
    monkeypatch.chdir(code.parent)
    monkeypatch.syspath_prepend(str(code.parent))
    assert own.build("a_net_of_mine:Net(num_classes=3)").module.head.out_features == 3  # type: ignore[union-attr]


def test_a_count_of_classes_that_the_network_does_not_have_is_left_out(tmp_path: Path) -> None:
    text = (
        "from torch import nn\n\nclass Net(nn.Module):\n    def __init__(self, num_classes=5):\n"
        "        super().__init__()\n        self.head = nn.Linear(4, num_classes)\n"
        "        self.last = nn.Linear(4, 4)\n"
    )
    (tmp_path / "net.py").write_text(text)
    state = {"head.weight": torch.zeros(5, 4), "head.bias": torch.zeros(5)}
    state |= {"last.weight": torch.zeros(4, 4), "last.bias": torch.zeros(4)}
    built = own.build(f"{tmp_path}/net.py:Net", state=state, name="w.pt").module
    assert built.head.out_features == 5  # type: ignore[union-attr]


def test_other_weights_are_refused_with_every_difference(code: Path, tmp_path: Path) -> None:
    state = dict(network(width=2).state_dict())
    state["extra.weight"] = state.pop("head.bias")
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / "w.pt", model=f"{code}:Net", describe=SMALL)
    for part in (
        "missing head.bias",
        "unexpected extra.weight",
        "features.0.0.weight [8, 1, 3, 3] not [4, 1, 3, 3]",
    ):
        assert part in caught.value.cause


def test_a_prefix_that_is_the_networks_own_stays(tmp_path: Path) -> None:
    text = (
        "from torch import nn\n\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))\n\n"
        "    def forward(self, x):\n        return self.net(x)\n"
    )
    (tmp_path / "net.py").write_text(text)
    torch.save({"net.1.weight": torch.ones(2, 4), "net.1.bias": torch.zeros(2)}, tmp_path / "w.pt")
    torch.save({"1.weight": torch.ones(2, 4), "1.bias": torch.zeros(2)}, tmp_path / "bare.pt")
    for name in ("w.pt", "bare.pt"):
        loaded = load_checkpoint(
            tmp_path / name, model=f"{tmp_path}/net.py:Net", describe=Description(input_size=2, channels=1)
        )
        assert torch.equal(loaded.module(torch.ones(1, 1, 2, 2)), torch.full((1, 2), 4.0))


BAD = {
    "no such file": ("none.py:Net", "", "there is no file"),
    "no such name": ("bad.py:Nett", "class Net: pass", "has no 'Nett'"),
    "syntax error": ("bad.py:Net", "x = 1\ndef broken(:", "invalid syntax in {folder}/bad.py:2"),
    "a missing import": ("bad.py:Net", "import a_library_that_is_not", "No module named 'a_library_that_is_not'"),
    "code that exits": ("bad.py:Net", "raise SystemExit(0)", "SystemExit: 0 ({folder}/bad.py:1)"),
    "no module": ("bad.py:make", "def make():\n    return 3", "returns a int, no torch.nn.Module"),
    "no callable": ("bad.py:x", "x = 3", "is a int, no class or function"),
    "arguments": ("bad.py:make", "def make(width):\n    return 3", "missing a required argument: 'width'"),
    "unknown arguments": ("bad.py:make(depth=2)", "def make():\n    return 3", "unexpected keyword argument 'depth'"),
    "an error": (
        "bad.py:make",
        "def make():\n    return [][0]",
        "IndexError: list index out of range ({folder}/bad.py:2)",
    ),
    "no literals": ("bad.py:make(width=open('x'))", "def make(width):\n    return 3", "can't be read"),
    "no names": ("bad.py:make(2)", "def make(width):\n    return 3", "can't be read"),
    "no spec": ("bad.py", "x = 3", "names no network"),
}


@pytest.mark.parametrize("kind", BAD)
def test_code_that_makes_no_network_is_told_by_cause_file_and_line(kind: str, tmp_path: Path) -> None:
    spec, text, cause = BAD[kind]
    (tmp_path / "bad.py").write_text(text)
    with pytest.raises(InputError) as caught:
        own.build(f"{tmp_path}/{spec}")
    assert cause.format(folder=tmp_path) in caught.value.cause
    assert caught.value.remedy


def test_nothing_of_the_arguments_is_executed(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("def make(x):\n    return x\n")
    with pytest.raises(InputError, match="can't be read"):
        own.build(f"{tmp_path}/net.py:make(x=__import__('pathlib').Path('{tmp_path}/made').mkdir())")
    assert not (tmp_path / "made").exists()


def test_a_toolkit_checkpoint_of_own_code_wants_that_code_and_keeps_its_metadata(code: Path, tmp_path: Path) -> None:
    net = network(classes=3)
    torch.save(net.state_dict(), tmp_path / "w.pt")
    said = Description(input_size=SIZE, labels=("ant", "bee", "cow"), mean=(0.3,), std=(0.2,))
    loaded = load_checkpoint(tmp_path / "w.pt", model=f"{code}:Net", describe=said)
    save_checkpoint(tmp_path / "own.pt", loaded.module, loaded.metadata, training={"epochs": 2})
    with pytest.raises(CheckpointError, match=r"net.py:Net, which isn't in the file \(give --model net.py:Net"):
        load_checkpoint(tmp_path / "own.pt")
    again = load_checkpoint(tmp_path / "own.pt", model=f"{code}:Net")
    assert again.metadata == loaded.metadata
    assert again.carries_metadata
    assert again.training == {"epochs": 2}
    assert torch.equal(answers(again.module), answers(net))
    with pytest.raises(InputError, match="says itself what --mean says"):
        load_checkpoint(tmp_path / "own.pt", model=f"{code}:Net", describe=Description(mean=(0.5,)))
