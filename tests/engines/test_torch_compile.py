"""torch.compile as a session: the conformance suite on what PyTorch traces, and one real compilation by Inductor."""

import shutil

import numpy as np
import pytest
import torch

from engines.errors import InputError, UnsupportedError
from engines.sessions.opening import backend_class
from engines.sessions.torch_compile import TorchCompileSession
from tests.conformance import Case, Conformance, samples
from tests.tiny import METADATA, tiny_graph
from tests.tiny_torch import tiny_module
from toolkit.loading import open_artifact

# PyTorch's own use of it.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


class Traced(TorchCompileSession):
    """Traced, guarded and specialised as ever, and run without a C++ compiler, which takes half a minute at first."""

    provider = "eager"


def in_double(data):
    with torch.inference_mode():
        return tiny_module(tiny_graph()).double()(torch.from_numpy(data).double()).numpy()


def traced(module=None):
    return Traced(module or tiny_module(tiny_graph()), METADATA, "cpu")


class TestTraced(Conformance):
    @pytest.fixture
    def case(self):
        return Case(traced, in_double, 1e-5)


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_inductor_compiles_the_whole_module_and_the_counters_prove_it():
    import torch._inductor.config as settings

    data = samples(3)
    # Precompiled headers and trying out the instruction sets pay off only for more kernels than these.
    with (
        settings.patch({"cpp_cache_precompile_headers": False, "cpp.vec_isa_ok": True}),
        TorchCompileSession(tiny_module(tiny_graph()), METADATA, "cpu") as session,
    ):
        assert (session.info.backend, session.info.provider) == ("torch-compile", "inductor")
        assert session.prove({"input": data}).problem == "nothing has been compiled yet: it has to run first"
        logits = session.run({"input": data})["logits"]
        np.testing.assert_allclose(logits, in_double(data), rtol=0, atol=1e-5)
        proof = session.prove({"input": data})
    assert proof.proven
    assert proof.provider == "inductor on cpu"
    assert "1 graph compiled whole, 0 graph breaks" in proof.how
    assert proof.shares == {"cpu float32": 1.0}


def test_batch_sizes_share_their_graphs():
    with traced() as session:
        for batch in (1, 2, 5, 3, 1, 7, 13):
            session.run({"input": samples(batch)})
        assert "2 graphs compiled whole" in session.prove({}).how


def test_many_sessions_of_one_process_do_not_use_up_each_others_variants():
    for classes in range(2, 12):
        module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, classes), torch.nn.Linear(classes, 5))
        with traced(module) as session:
            assert session.run({"input": samples(2)})["logits"].shape == (2, 5)


def test_a_module_that_breaks_the_graph_is_refused_and_not_run_by_python():
    class Breaking(torch.nn.Module):
        def forward(self, x):
            torch._dynamo.graph_break()
            return torch.zeros(len(x), 5)

    with traced(Breaking()) as session, pytest.raises(UnsupportedError, match=r"torch\.compile failed on") as caught:
        session.run({"input": samples(2)})
    assert caught.value.remedy == "use --backend torch"
    assert "\n" not in caught.value.cause


def test_a_missing_compiler_is_told_before_anything_runs():
    import torch._inductor.config as settings

    # PyTorch's own way: what monkeypatch would put back isn't what the next test that compiles finds.
    with (
        settings.patch({"cpp.cxx": ("no-such-compiler",)}),
        pytest.raises(UnsupportedError, match=r"needs a C\+\+ compiler, and finds none") as caught,
    ):
        TorchCompileSession(tiny_module(tiny_graph()), METADATA, "cpu")
    assert "g++" in caught.value.remedy


def test_a_checkpoint_is_opened_by_name_and_a_graph_is_not(tmp_path):
    assert backend_class("torch-compile") is TorchCompileSession
    path = tmp_path / "m.onnx"
    path.write_bytes(b"")
    with pytest.raises(InputError, match="made for the backend 'onnxruntime', not for 'torch-compile'"):
        open_artifact(path, backend="torch-compile")
