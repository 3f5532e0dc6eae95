"""A registered model as MLflow runs it: this file travels with the model, and so do the components. No Ray.

What it takes is a DataFrame of one column, `user` or `history`, and k; it gives a row for each row, `items` and their `scores`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

from components import serving


class Served(PythonModel):
    """Thin: components.serving does the work."""

    def load_context(self, context: Any) -> None:
        self._model = serving.load(Path(context.artifacts["model"]))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> Any:
        """Raises InputError where a user is unknown, or k exceeds the catalogue."""
        assert params is not None, "MLflow fills in what the signature has"
        found = self._model.lists(model_input[self._model.column].tolist(), params["k"])
        return pd.DataFrame({"items": found.items, "scores": found.scores})


set_model(Served())
