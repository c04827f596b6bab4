"""What whoever serves a packaged engine should know."""

from toolkit.packaging.batches import Batches
from toolkit.packaging.model import Model
from toolkit.packaging.serving import Serving


def notes_on(model: Model, batches: Batches, serving: Serving, *, warmed: bool, labelled: bool) -> tuple[str, ...]:
    """What isn't in the configuration, or follows from it and may surprise; a line each.

    Args:
        model: the engine.
        batches: that Triton makes for it.
        serving: what Triton is asked, with the device decided.
        warmed: whether the model is warmed up.
        labelled: whether the classes have names.
    """
    notes = []
    if not batches.largest:
        notes.append(f"Triton makes no batches of its requests: {batches.reason}")
    options = model.passport.options if model.passport else {}
    if model.kind == "plan" and options.get("version_compatible"):
        notes.append(
            f"the plan loads in a Triton with {model.library} or newer of the same major version, started with "
            "--backend-config=tensorrt,version-compatible=true"
        )
    elif model.kind == "plan":
        notes.append(f"the plan loads only in a release of Triton that has {model.library}")
    if model.passport and model.kind == "plan" and model.passport.compute_capabilities:
        notes.append(f"the plan was built for compute capability {', '.join(model.passport.compute_capabilities)}")
    if model.placement == "foreign":
        notes.append(
            "the Q/DQ is another tool's: in Triton ONNX Runtime may quantise float biases behind it too, which "
            "toolkit's own session doesn't allow; measure it there"
        )
    if serving.accelerator == "tensorrt":
        notes.append("TensorRT builds its engine each time the model is loaded; layers that it leaves run on CUDA")
    if serving.accelerator == "openvino":
        notes.append("the release of Triton must have the OpenVINO accelerator in its ONNX Runtime (x86-64 only)")
    if serving.device == "auto":
        notes.append("instances run on every GPU that Triton sees, on the CPU where it sees none; --device decides")
    if model.metadata and model.metadata.pictures is not None and not model.metadata.uint8_input:
        notes.append("clients send pixels as the parameter toolkit.preprocess says: Triton doesn't preprocess")
    if not labelled:
        notes.append("no labels: nothing says what the classes are called")
    if not warmed:
        notes.append("no warm-up: the inputs' sizes vary, and no profile says which are usual")
    return tuple(notes)
