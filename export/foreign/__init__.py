"""ONNX graphs that another exporter wrote become master graphs: read, made plain, freed of their batch, judged."""
