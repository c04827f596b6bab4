"""What an application embeds: numpy and one backend, nothing else.

Importing this pulls in no backend and none of torch, onnx, click, rich and Pillow.
"""

from toolkit.runtime.batcher import Batcher as Batcher
from toolkit.runtime.head import Head as Head
from toolkit.runtime.prediction import Candidate as Candidate
from toolkit.runtime.prediction import Prediction as Prediction
from toolkit.runtime.predictor import Predictor as Predictor
