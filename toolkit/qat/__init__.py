"""Quantisation-aware fine-tuning: what surrounds the training loop, so that the loop itself needs no change.

:func:`prepare` calibrates a network and attaches fake quantisation to it, ``export.training.train`` trains it, and
:meth:`Quantised.finish` leaves the plain network and its calibration table, whose ranges were learned.
:func:`write_learned_table` puts that table beside the exported graph.
"""

from toolkit.qat.learned import KEY as KEY
from toolkit.qat.learned import write_learned_table as write_learned_table
from toolkit.qat.quantised import Quantised as Quantised
from toolkit.qat.quantised import prepare as prepare
