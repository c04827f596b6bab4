"""Training: the data that come in, the loop, and what it came to."""

from export.training.beginning import initialised as initialised
from export.training.data import TrainingData as TrainingData
from export.training.data import frame_of as frame_of
from export.training.data import ten_crop_frame as ten_crop_frame
from export.training.facts import EpochFacts as EpochFacts
from export.training.facts import TrainingInterrupted as TrainingInterrupted
from export.training.facts import TrainingResult as TrainingResult
from export.training.facts import TrainingState as TrainingState
from export.training.facts import best_epoch as best_epoch
from export.training.loop import train as train
from export.training.transfer import head_of as head_of
