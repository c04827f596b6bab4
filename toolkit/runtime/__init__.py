"""What an application embeds: numpy and one backend, nothing else.

Importing this pulls in no backend and none of torch, onnx, click, rich and Pillow.
"""

from toolkit.runtime.batcher import Batcher as Batcher
from toolkit.runtime.predictor import Candidate as Candidate
from toolkit.runtime.predictor import Prediction as Prediction
from toolkit.runtime.predictor import Predictor as Predictor
