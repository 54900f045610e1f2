"""What a model says about your rows: `predict`, and one file for each kind of answer in `tasks/`."""

from counterpoint.predict.predict import Prediction, predict

__all__ = ["Prediction", "predict"]
