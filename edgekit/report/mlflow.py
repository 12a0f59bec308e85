"""A report as MLflow keeps it: a run per cell, its figures as metrics, what it is of as parameters, run.json beside them."""

from __future__ import annotations

from edgekit.errors import SetupError
from edgekit.report import Report
from edgekit.report.columns import COLUMNS, codes, numbers

PARAMETERS, NAMES = 500, 250  # characters that MLflow takes of a parameter, and at least of a name and of a tag


def log(report: Report, uri: str, experiment: str = "edgekit") -> list[str]:
    """Log every cell as an MLflow run of an experiment at a tracking URI; returns the ids of these runs.

    Metrics have the columns' names and units. Cells that failed are runs that failed. Raises SetupError without mlflow, or when
    the tracking server refuses.
    """
    try:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
    except ImportError as error:
        raise SetupError("mlflow is not installed", "pip install 'edgekit[mlflow]'") from error
    try:
        client = MlflowClient(tracking_uri=uri)
        found = client.get_experiment_by_name(experiment)
        number = found.experiment_id if found else client.create_experiment(experiment)
        made = []
        for cell in report.cells:
            words = {"run": report.run, "cell": cell["id"], "warnings": codes(cell)}
            tags = {f"edgekit.{name}": told[:PARAMETERS] for name, told in words.items()}
            run = client.create_run(number, run_name=cell["id"][:NAMES], tags=tags).info.run_id
            for column in COLUMNS:
                value = column.of(cell)
                if not column.number and value is not None:
                    client.log_param(run, column.name, str(value)[:PARAMETERS])
            for name, figure in numbers(cell).items():
                client.log_metric(run, name, float(figure))
            client.log_artifact(run, str(report.path / "run.json"))
            client.set_terminated(run, "FAILED" if cell["status"] == "failed" else "FINISHED")
            made.append(run)
    except MlflowException as error:
        raise SetupError(f"MLflow at {uri} refused: {error.message}", "look at the tracking URI") from error
    return made
