"""What the columns of a table mean, in a sentence each."""

from typing import NamedTuple


class Meaning(NamedTuple):
    """A column in words.

    Attributes:
        said: a sentence.
        unit: of its numbers; "y" for that of the target.
    """

    said: str
    unit: str = ""


MEANINGS = {
    "lppd": Meaning("Mean log predictive density of the held-out data; higher is better.", "nats per test point"),
    "rmse": Meaning("Root mean squared error of the predicted mean; lower is better.", "y"),
    "mae": Meaning("Mean absolute error of the predicted mean; lower is better.", "y"),
    "crps": Meaning(
        "Continuous ranked probability score: the mean distance of the predicted distribution from the outcome; lower "
        "is better.",
        "y",
    ),
    "coverage90": Meaning("Share of the held-out outcomes inside the central 90 % interval; 90 % is right."),
    "accuracy": Meaning("Share of the held-out data whose most probable class is right; higher is better."),
    "brier": Meaning("Mean squared error of the class probabilities; lower is better."),
    "ece": Meaning("Expected calibration error: the mean gap between stated and observed accuracy; lower is better."),
    "wasserstein1": Meaning(
        "Mean distance of the predicted distribution from the reference's; compare it with the ceiling row, the "
        "distance of two halves of the reference itself.",
        "y",
    ),
    "total_variation": Meaning(
        "Mean distance of the class probabilities from the reference's, from 0 to 1; compare it with the ceiling row."
    ),
    "agreement": Meaning("Share of the held-out data for which the most probable class is that of the reference."),
    "elpd_loo": Meaning(
        "Sum over the training data of the log predictive density of each, left out in turn by importance weights; "
        "higher is better.",
        "nats",
    ),
    "bad_pareto_k": Meaning("Training data whose leave-one-out weights have a Pareto k above 0.7: not to be trusted."),
    "log_evidence": Meaning("Log of the integral of the joint density: how well model and prior fit the data.", "nats"),
    "k_hat": Meaning(
        "Pareto k-hat of importance weights from the approximation to the posterior: above 0.7 it is not Gaussian "
        "enough to be trusted in its tails."
    ),
    "rhat_median": Meaning("Do the chains agree? R-hat of the predictions, the median test point; 1 is agreement."),
    "rhat": Meaning("R-hat of the predictions, of which 95 % of the test points stay below; up to 1.01 is good."),
    "num_gradients": Meaning("Gradient evaluations of the whole log density, everything counted."),
    "seconds": Meaning(
        "Wall time, everything counted; also compilation, except of what this process had compiled before."
    ),
    "status": Meaning("How the fit ended; converged is only said with a certificate."),
}
