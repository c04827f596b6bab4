"""NNCF: GRAPH IMAGES.npy OUTPUT --backend openvino (OUTPUT.xml) | onnx (OUTPUT.onnx), its defaults otherwise.

Its defaults: a mixed preset, fast bias correction, batch statistics of the images as they come.
"""

from typing import Any

import nncf
from images import batches, parser_of, shape_of


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--backend", choices=("openvino", "onnx"), default="openvino")
    options = parser.parse_args()
    count, size = shape_of(options.images)[0], options.batch_size
    steps = -(-count // size)

    class Source:
        def __iter__(self) -> Any:
            return iter(batches(options.images, size))

        def __len__(self) -> int:
            return steps

    if options.backend == "openvino":
        import openvino

        model = openvino.Core().read_model(str(options.graph))
        quantised = nncf.quantize(model, nncf.Dataset(Source()), subset_size=steps)
        openvino.save_model(quantised, str(options.output), compress_to_fp16=False)
    else:
        import onnx

        graph = onnx.load(str(options.graph))
        name = graph.graph.input[0].name
        dataset = nncf.Dataset(Source(), lambda batch: {name: batch})
        onnx.save(nncf.quantize(graph, dataset, subset_size=steps), str(options.output))


if __name__ == "__main__":
    main()
